-- Hand a running job over. ARGV: attempt, 1 = its engine died. Returns 1 if it was ours.
if get('state') ~= 'in_progress' or number('attempt') ~= tonumber(ARGV[1]) then return 0 end
local _, n = top()
if ARGV[2] == '1' then
  -- Until it adds a token it may be what killed the engine. `mark` stays: the next claim counts what this one added.
  redis.call('HSET', KEYS[1], 'suspect', n)
else
  if n > number('mark') then redis.call('HSET', KEYS[1], 'stalls', 0) end
  redis.call('HDEL', KEYS[1], 'mark')
end
redis.call('HSET', KEYS[1], 'boot', '')
return 1
