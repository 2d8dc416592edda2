-- ARGV boot, lease in ms -> now, Redis ms; 0: the lease is lost
-- (ZADD XX CH would answer 0 for an unchanged score too. ZREM first: a full Redis refuses a script that begins with ZADD.)
if redis.call('ZREM', LIVE, ARGV[1]) == 0 then return 0 end
local now = now_ms()
redis.call('ZADD', LIVE, now + ARGV[2], ARGV[1])
return math.floor(now)
