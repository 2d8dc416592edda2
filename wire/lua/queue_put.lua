-- ARGV queue, task id, delivery tag, offset in ms, JSON -> 1 queued, 0 was queued already
return enqueue(ARGV[1], ARGV[2], now_ms() + ARGV[4], '0\n' .. ARGV[3] .. '\n' .. ARGV[5])
