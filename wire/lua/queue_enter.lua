-- ARGV queue, ticket, places, ms for which a place is kept, ms for which it is kept ahead, kombu's lists of the queue...
-- -> {1 come in | 0 stand in line, messages that wait}
-- Whose moment has come needs a place. All others need one more than is kept for those whose moment is near; at most
-- half of the places are kept, so that no queue runs dry for people who do not come.
local queue, ticket, places, kept, ahead = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local line, now, waiting = base(queue) .. ':line', now_ms(), redis.call('ZCARD', base(queue))
for i = 6, #ARGV do waiting = waiting + redis.call('LLEN', ARGV[i]) end
redis.call('ZREMRANGEBYSCORE', line, '-inf', now - kept)

local moment, before = tonumber(redis.call('ZSCORE', line, ticket) or ''), 0
if not moment or moment > now then
  local near = math.min(moment or now + ahead, now + ahead)
  before = math.min(redis.call('ZCOUNT', line, '-inf', string.format('(%.3f', near)), places / 2)
end
if places - waiting <= before then return {0, waiting} end
redis.call('ZREM', line, ticket)
return {1, waiting}
