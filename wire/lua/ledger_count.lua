-- Note how many tokens the prompt has. ARGV: prompt tokens. Nothing if the job has ended: its usage is counted.
-- A bare HSET would bring a record that has expired back as a stump that never expires.
local state = get('state')
if not state or TERMINAL[state] then return 0 end
redis.call('HSET', KEYS[1], 'prompt_tokens', ARGV[1])
return 1
