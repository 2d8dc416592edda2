-- ARGV most messages, 1 = may declare boots dead -> {boots declared dead, messages put back, boots still dead}
-- A boot leaves `dead` only when its hash is empty, so a reaper that dies half-way loses nothing.
local declared, n, most = {}, 0, tonumber(ARGV[1])
if ARGV[2] == '1' then
  local now = now_ms()
  declared = redis.call('ZRANGEBYSCORE', LIVE, '-inf', now)
  for _, boot in ipairs(declared) do
    redis.call('ZREM', LIVE, boot)
    redis.call('ZADD', DEAD, now, boot)
  end
end
for _, boot in ipairs(redis.call('ZRANGE', DEAD, 0, 9)) do
  for _, tag in ipairs(redis.call('HKEYS', unacked(boot))) do
    if n >= most then break end
    n = n + restore(boot, tag)
  end
  if redis.call('EXISTS', unacked(boot)) == 0 then redis.call('ZREM', DEAD, boot) end
end
return {declared, n, redis.call('ZCARD', DEAD)}
