-- ARGV queue, most messages, ageing, default priority -> {taken off the lists, refused}
return {absorb(ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]))}
