-- Give the log back what a Redis that lost writes has lost.
-- ARGV: attempt, boot, claim id, tokens the owner has, what `create` reads, with '' for no job;
--       then the last of the tokens: count, event, count, event, …
-- Returns {outcome, the log's count}.
local attempt = tonumber(ARGV[1])
if not get('state') then
  -- A record goes when the job has ended. Without a tombstone it was not deleted: Redis never kept it.
  if ARGV[6] == '' or redis.call('EXISTS', KEYS[4]) == 1 then return { 'gone', 0 } end
  create('', 0, 5)
end
local state = get('state')
local newest, n = top()
-- Attempts compare by order: a greater one fences, a smaller one is what was lost.
if TERMINAL[state] or math.max(newest, number('attempt')) > attempt then return { 'fenced', n } end
if newest < attempt then mark(attempt, n) end
redis.call('HSET', KEYS[1], 'state', 'in_progress', 'attempt', attempt, 'boot', ARGV[2], 'claim', ARGV[3])
redis.call('HSETNX', KEYS[1], 'started', now())
redis.call('HSETNX', KEYS[1], 'mark', n)
for i = 14, #ARGV, 2 do
  local count = tonumber(ARGV[i])
  if count > n + 1 then break end
  if count == n + 1 then
    log(attempt, count, ARGV[i + 1])
    redis.call('PUBLISH', KEYS[3], ARGV[i + 1])
    n = count
  end
end
return { n < tonumber(ARGV[4]) and 'lost' or 'ok', n }
