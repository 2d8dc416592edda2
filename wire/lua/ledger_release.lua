-- Hand a running job over without blame. KEYS: record, log, channel. ARGV: attempt. Returns 1 if it was ours.
if get('state') ~= 'in_progress' or number('attempt') ~= tonumber(ARGV[1]) then return 0 end
local _, n = top()
if n > number('mark') then redis.call('HSET', KEYS[1], 'stalls', 0) end
redis.call('HDEL', KEYS[1], 'mark')
redis.call('HSET', KEYS[1], 'boot', '')
return 1
