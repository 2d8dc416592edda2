-- ARGV queue, ticket, ms from one place to the next, ms of the longest wait, ms for which a place is kept
-- -> ms until the ticket's moment
-- Whoever comes before the moment keeps it; who came in time and found no place stands in front, among those like him.
local queue, ticket, each, longest, kept = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local line, now = base(queue) .. ':line', now_ms()
local moment = tonumber(redis.call('ZSCORE', line, ticket) or '')
if moment and moment > now then return math.ceil(moment - now) end

local last = redis.call('ZREVRANGE', line, 0, 0, 'WITHSCORES')[2]
local at = math.max(now, tonumber(last or 0)) + each
if moment then at = now + redis.call('ZCOUNT', line, '-inf', now) * each end
if at - now > longest then return longest end
redis.call('ZADD', line, string.format('%.3f', at), ticket)
redis.call('PEXPIRE', line, math.ceil(math.max(at, tonumber(last or 0)) - now + kept))
return math.ceil(at - now)
