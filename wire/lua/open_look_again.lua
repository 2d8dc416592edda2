-- ARGV job id, Redis ms : the reconciler looks at it then, if it has not ended
return redis.call('ZADD', OPEN, 'XX', ARGV[2], ARGV[1])
