-- Which jobs nobody answers for. ARGV (id, queue, boot in its record)... -> 1 for each that is in no queue, in no
-- boot's hands, and whose record names no boot that lives.
local unheld, doubtful = {}, false
for i = 1, #ARGV, 3 do
  local id, queue, boot = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local queued = redis.call('HEXISTS', base(queue) .. ':msgs', id) == 1
  local owned = boot ~= '' and redis.call('ZSCORE', LIVE, boot)
  unheld[#unheld + 1] = (queued or owned) and 0 or 1
  doubtful = doubtful or unheld[#unheld] == 1
end
if not doubtful then return unheld end

-- Taken and not claimed yet, or to be put back by a reaper: few, but only all hashes of all boots can tell.
local held = {}
for _, set in ipairs({LIVE, DEAD}) do
  for _, boot in ipairs(redis.call('ZRANGE', set, 0, -1)) do
    for _, value in ipairs(redis.call('HVALS', unacked(boot))) do
      held[value:match('^[^\n]*\n[^\n]*\n([^\n]*)') or ''] = true
    end
  end
end
for n = 1, #unheld do
  if held[ARGV[3 * n - 2]] then unheld[n] = 0 end
end
return unheld
