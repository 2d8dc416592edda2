-- ARGV queue, task id, delivery tag, priority's ms, JSON, tenant or '', ms of a turn -> 1 queued, 0 was queued already
local queue, id, tag, offset, body, tenant, turn_ms = unpack(ARGV)
local z = base(queue)
if redis.call('HEXISTS', z .. ':msgs', id) == 1 then return 0 end

-- A tenant's jobs of one priority take their turns: each counts as sent no earlier than a turn after the one before.
-- So many at once stand behind each other, not in front of what others send a little later.
local function turn(now)
  local turns, name = z .. ':turns', offset .. ' ' .. tenant
  if redis.call('EXISTS', z) == 0 then redis.call('DEL', turns) end
  local last = tonumber(redis.call('HGET', turns, name) or '')
  local at = last and math.max(now, last + turn_ms) or now
  redis.call('HSET', turns, name, string.format('%.3f', at))
  if redis.call('HLEN', turns) > 1000 then
    local all = redis.call('HGETALL', turns)
    for i = 1, #all, 2 do
      if all[i + 1] + turn_ms < now then redis.call('HDEL', turns, all[i]) end
    end
  end
  return at
end

local now = now_ms()
local at = tenant == '' and now or turn(now)
return enqueue(queue, id, string.format('%.3f', at + offset), '0\n' .. tag .. '\n' .. body)
