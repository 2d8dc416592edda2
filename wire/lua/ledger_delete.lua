-- Remove a finished job. ARGV: result ttl ms.
local state = get('state')
if not state then return 'missing' end
if not TERMINAL[state] then return 'live' end
-- A message that comes back late must not run the job again: its attempt outlives the record for a while.
redis.call('SET', KEYS[4], get('attempt'), 'PX', ARGV[1])
redis.call('UNLINK', KEYS[1], KEYS[2])
return 'deleted'
