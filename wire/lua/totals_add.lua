-- Add what a process has counted since it last said so: its values only grow, and said again they change nothing.
-- KEYS: what it has said, the totals, their index. ARGV: ms that the totals are kept, ms that its own word is, member
-- of the index, 1 = it knows that it was heard before; then field, value, field, value, ….
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- Its word has expired and the totals have not: all that it says is in them. (Both gone: Redis has lost them.)
local heard = ARGV[4] == '1' and redis.call('EXISTS', KEYS[1]) == 0 and redis.call('EXISTS', KEYS[2]) == 1
for i = 5, #ARGV, 2 do
  local more = tonumber(ARGV[i + 1]) - tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or 0)
  if more > 0 then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    if not heard then redis.call('HINCRBYFLOAT', KEYS[2], ARGV[i], string.format('%.17g', more)) end
  end
end

redis.call('HSET', KEYS[1], 'at', now)  -- there also of one that has counted nothing yet
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[3], now, ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[1])
