-- ARGV (boot, queue, task id, tag)... : also where a reaper has put the message back meanwhile -> how many were there
local n = 0
for i = 1, #ARGV, 4 do
  local boot, queue, id, tag = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if redis.call('HDEL', unacked(boot), tag) == 1 then n = n + 1
  elseif queued(queue, id, tag) then n = n + dequeue(queue, id) end
end
return n
