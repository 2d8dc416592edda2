-- ARGV queue, task id -> 1 removed, 0 was not queued
return dequeue(ARGV[1], ARGV[2])
