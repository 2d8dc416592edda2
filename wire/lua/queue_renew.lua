-- ARGV boot, lease in ms -> now, Redis ms; 0: the lease is lost
-- (ZADD XX CH would answer 0 for an unchanged score too.)
if not redis.call('ZSCORE', LIVE, ARGV[1]) then return 0 end
local now = now_ms()
redis.call('ZADD', LIVE, now + ARGV[2], ARGV[1])
return math.floor(now)
