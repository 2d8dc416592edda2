-- Write a record unless there is one. ARGV: digest, then as `create` reads them.
-- Returns {created, record's fields}.
if get('state') then
  redis.call('HINCRBY', KEYS[1], 'askers', 1)
  return { 0, record() }
end
-- An id that is used again goes on counting attempts, so that an owner of its former life stays fenced.
create(ARGV[1], redis.call('GETDEL', KEYS[4]) or 0, 2)
return { 1, record() }
