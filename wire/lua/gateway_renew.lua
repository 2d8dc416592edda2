-- ARGV gateway, lease in ms : it lives so long at least
return redis.call('ZADD', 'sagrada:gateways', now_ms() + ARGV[2], ARGV[1])
