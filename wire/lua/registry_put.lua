-- Keep a blob: without its tokenizer a worker could not take what waits. KEYS: blob. ARGV: data, ttl ms.
return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
