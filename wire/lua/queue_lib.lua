-- Shared by the queue's scripts. Key names follow wire/keys.py; the fleet's Redis is one node, so a script may derive them.
-- A queued message:   "<redeliveries>\n<delivery tag>\n<kombu's JSON>"
-- An unacked message: "<score>\n<queue>\n<task id>\n" and then the same.
-- (Never re-encoded: cjson would turn [] into {}. Scores travel as ZPOPMIN's string: `..` keeps 14 digits only.)
local LIVE, DEAD, OPEN = 'sagrada:live', 'sagrada:dead', 'sagrada:open'
local QUEUED, UNACKED = '^%d+\n([^\n]*)', '^([^\n]*)\n([^\n]*)\n([^\n]*)\n(%d+)\n(.*)$'

local function base(queue) return 'sagrada:q:' .. queue end
local function unacked(boot) return 'sagrada:unacked:' .. boot end

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + t[2] / 1000
end

-- Whoever waits on the bell has seen the queue empty, so only the first message needs to ring it.
local function enqueue(queue, id, score, value)
  local z = base(queue)
  if redis.call('HSETNX', z .. ':msgs', id, value) == 0 then return 0 end
  redis.call('ZADD', z, score, id)
  if redis.call('ZCARD', z) == 1 then redis.call('XADD', z .. ':bell', 'MAXLEN', 1, '*', 'rung', 1) end
  return 1
end

local function dequeue(queue, id)
  redis.call('HDEL', base(queue) .. ':msgs', id)
  return redis.call('ZREM', base(queue), id)
end

-- How many were taken in each ten seconds of the last minute, for TaskQueue.pace.
local PERIOD, PERIODS = 10000, 7
local function count_taken(queue, n)
  local key, period = base(queue) .. ':taken', math.floor(now_ms() / PERIOD)
  redis.call('HINCRBY', key, period, n)
  if redis.call('HLEN', key) <= PERIODS then return end
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if tonumber(field) <= period - PERIODS then redis.call('HDEL', key, field) end
  end
end

-- The message `id` if it is queued as the delivery `tag`.
local function queued(queue, id, tag)
  local value = redis.call('HGET', base(queue) .. ':msgs', id)
  return value and value:match(QUEUED) == tag and value
end

-- Kept for a person to look at: the first 4 KiB of the latest 1000.
local function refuse(queue, message)
  redis.call('LPUSH', base(queue) .. ':bad', message:sub(1, 4096))
  redis.call('LTRIM', base(queue) .. ':bad', 0, 999)
end

-- Back into its queue with its old score. If the same job was queued again meanwhile, that message stands for both.
local function restore(boot, tag)
  local value = redis.call('HGET', unacked(boot), tag)
  if not value then return 0 end
  redis.call('HDEL', unacked(boot), tag)
  local score, queue, id, redeliveries, rest = value:match(UNACKED)
  if score then enqueue(queue, id, score, (redeliveries + 1) .. '\n' .. rest) else refuse('', value) end
  return 1
end
