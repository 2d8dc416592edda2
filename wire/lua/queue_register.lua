-- ARGV new boot or '', lease in ms, old boots... : start, lost lease, shutdown -> now, Redis ms
-- What the old boots left is there for the reaper at once.
local now = now_ms()
for i = 3, #ARGV do
  redis.call('ZREM', LIVE, ARGV[i])
  if redis.call('EXISTS', unacked(ARGV[i])) == 1 then redis.call('ZADD', DEAD, 'NX', now, ARGV[i]) end
end
if ARGV[1] ~= '' then redis.call('ZADD', LIVE, now + ARGV[2], ARGV[1]) end
return math.floor(now)
