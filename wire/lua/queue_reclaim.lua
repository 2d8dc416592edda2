-- ARGV new boot, (old boot, queue, task id, tag)... -> nil: the new boot has no lease
-- | per message 1: taken from the old hash, 2: from the queue, 0: somebody else has it
-- Only into a live boot's hash: no other is ever looked at by a reaper.
local new, won = ARGV[1], {}
if not redis.call('ZSCORE', LIVE, new) then return false end
for i = 2, #ARGV, 4 do
  local old, queue, id, tag = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local value, how = redis.call('HGET', unacked(old), tag), 1
  if value then
    redis.call('HDEL', unacked(old), tag)
  else
    value, how = queued(queue, id, tag), 2
    if value then
      value = redis.call('ZSCORE', base(queue), id) .. '\n' .. queue .. '\n' .. id .. '\n' .. value
      dequeue(queue, id)
    end
  end
  if value then redis.call('HSET', unacked(new), tag, value) end
  won[#won + 1] = value and how or 0
end
return won
