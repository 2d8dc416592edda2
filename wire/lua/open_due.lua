-- Take the jobs whose look is due; each is due again after the pause, so that of many reconcilers one has it.
-- ARGV: most, pause ms -> {now, Redis ms; ids}
local now = math.floor(now_ms())
local ids = redis.call('ZRANGEBYSCORE', OPEN, '-inf', now, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do redis.call('ZADD', OPEN, now + ARGV[2], id) end
return {now, ids}
