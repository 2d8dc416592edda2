-- Write a record unless there is one. KEYS: record, log, channel, tombstone.
-- ARGV: version, job, model, digest, queue, ttl ms, prompt tokens. Returns {created, record's fields}.
local v, body, model, digest, queue, ttl, prompt_tokens = unpack(ARGV)
if get('state') then return { 0, record() } end
-- An id that is used again goes on counting attempts, so that an owner of its former life stays fenced.
create(v, body, model, digest, queue, ttl, prompt_tokens, redis.call('GETDEL', KEYS[4]) or 0)
return { 1, record() }
