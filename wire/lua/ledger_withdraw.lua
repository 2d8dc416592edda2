-- Make as if a job that has not begun had never been submitted, unless others count on it. ARGV: result ttl ms.
-- Returns 1 if it is gone.
if get('state') ~= 'queued' or number('attempt') > 0 or number('askers') > 1 then return 0 end
stop('cancelled', ARGV[1])
redis.call('SET', KEYS[4], get('attempt'), 'PX', ARGV[1])
redis.call('UNLINK', KEYS[1], KEYS[2])
return 1
