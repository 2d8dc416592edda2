-- ARGV (boot, tag)... : back into the queue -> how many
local n = 0
for i = 1, #ARGV, 2 do n = n + restore(ARGV[i], ARGV[i + 1]) end
return n
