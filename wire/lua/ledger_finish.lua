-- The last tokens and the end, in order, once.
-- ARGV: attempt, result ttl ms, state, result, error, error type, prompt tokens, completion tokens;
--       then count, event, count, event, …; the last pair is the end. Returns {outcome, the log's count}.
local attempt, keep = tonumber(ARGV[1]), ARGV[2]
local state = get('state')
if not state then return { 'gone', 0 } end
local newest, n, event = top()
if TERMINAL[state] then
  -- The same end again: its first reply was lost on the way.
  local same = newest == attempt and event == ARGV[#ARGV]
  return { same and 'ok' or 'fenced', n }
end
if math.max(newest, number('attempt')) > attempt then return { 'fenced', n } end
-- Nothing is written unless all of it fits on what the log holds.
if tonumber(ARGV[9]) > n + 1 or tonumber(ARGV[#ARGV - 1]) <= n then return { 'lost', n } end

for i = 9, #ARGV, 2 do
  local count = tonumber(ARGV[i])
  if count > n then log(attempt, count, ARGV[i + 1]) end
  -- One that the log had already may never have been published: readers drop what they know.
  redis.call('PUBLISH', KEYS[3], ARGV[i + 1])
end
redis.call('HSETNX', KEYS[1], 'started', now())
redis.call('HSET', KEYS[1], 'result', ARGV[4], 'error', ARGV[5], 'error_type', ARGV[6], 'prompt_tokens', ARGV[7])
close(ARGV[3], attempt, ARGV[8], keep)
return { 'ok', tonumber(ARGV[#ARGV - 1]) }
