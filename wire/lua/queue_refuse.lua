-- ARGV (boot, queue, tag)... : what cannot be delivered, to the queue's list of bad messages -> how many
local n = 0
for i = 1, #ARGV, 3 do
  local value = redis.call('HGET', unacked(ARGV[i]), ARGV[i + 2])
  if value then
    redis.call('HDEL', unacked(ARGV[i]), ARGV[i + 2])
    refuse(ARGV[i + 1], value)
    n = n + 1
  end
end
return n
