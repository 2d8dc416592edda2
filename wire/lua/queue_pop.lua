-- ARGV boot, most messages, 1 = resync, ageing, default priority, queues...
-- -> nil: the boot has no lease | {size of its unacked hash, refused, all it owns (resync only), taken now, bell ids}
-- The unacked record is written where the message is taken: there is no moment in which it is nowhere.
local boot, most, owned, taken, bells, refused = ARGV[1], tonumber(ARGV[2]), {}, {}, {}, 0
if not redis.call('ZSCORE', LIVE, boot) then return false end
if ARGV[3] == '1' then owned, most = redis.call('HVALS', unacked(boot)), 0 end

for i = 6, #ARGV do
  local queue = ARGV[i]
  local z = base(queue)
  local _, bad = absorb(queue, 200, ARGV[4], tonumber(ARGV[5]))
  refused = refused + bad
  local got = #taken < most and redis.call('ZPOPMIN', z, most - #taken) or {}
  local counted = 0
  for k = 1, #got, 2 do
    local value = redis.call('HGET', z .. ':msgs', got[k])
    if value then
      counted = counted + 1
      redis.call('HDEL', z .. ':msgs', got[k])
      local record = got[k + 1] .. '\n' .. queue .. '\n' .. got[k] .. '\n' .. value
      redis.call('HSET', unacked(boot), value:match(QUEUED), record)
      taken[#taken + 1] = record
    end
  end
  if counted > 0 then count_taken(queue, counted) end
end

if #taken == 0 then
  for i = 6, #ARGV do
    local last = redis.call('XREVRANGE', base(ARGV[i]) .. ':bell', '+', '-', 'COUNT', 1)
    bells[#bells + 1] = last[1] and last[1][1] or '0-0'
  end
end
return {redis.call('HLEN', unacked(boot)), refused, owned, taken, bells}
