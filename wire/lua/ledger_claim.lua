-- Begin the job's next attempt.
-- ARGV: boot, claim id, most stalls, result ttl ms, version this process reads;
--       then, if the message carried the job, what `create` reads.
-- Returns {'gone'}, {'newer', version}, {'terminal', fields, 1 = ended by this very claim: its time was up},
--         {'claimed' or 'poisoned', attempt, deadline, job, events so far,
--          1 = its last engine died, 2 = and it had added nothing there, ms since its submission, ms since its start}.
local boot, claim, most_stalls, keep, version = unpack(ARGV)

local function answer(attempt, n, entries)
  local events = {}
  for i, entry in ipairs(entries) do events[i] = entry[2][2] end
  local verdict = number('stalls') >= tonumber(most_stalls) and 'poisoned' or 'claimed'
  local suspect = tonumber(get('suspect') or '') ~= n and 0 or number('stalls') > 0 and 2 or 1
  return { verdict, attempt, number('deadline'), get('job'), events, suspect, now() - number('created'),
    now() - number('started') }
end

if not get('state') then
  if #ARGV == 5 or redis.call('EXISTS', KEYS[4]) == 1 then return { 'gone' } end
  create('', 0, 6)
end
if number('v') > tonumber(version) then return { 'newer', number('v') } end
if TERMINAL[get('state')] then return { 'terminal', record() } end
if get('claim') == claim then
  -- The same claim again: its first reply was lost on the way.
  local attempt, n = top()
  return answer(attempt, n, redis.call('XRANGE', KEYS[2], '-', '+'))
end
if overdue() then
  stop('expired', keep)
  return { 'terminal', record(), 1 }
end

local attempt, n = top()
attempt = math.max(attempt, number('attempt')) + 1
-- `mark` is the count at the last claim; absent for a first claim and after a release, which blame nobody.
local before = tonumber(get('mark') or '')
if before then redis.call('HSET', KEYS[1], 'stalls', n > before and 0 or number('stalls') + 1) end
local entries = redis.call('XRANGE', KEYS[2], '-', '+')
mark(attempt, n)
redis.call('HSET', KEYS[1], 'state', 'in_progress', 'attempt', attempt, 'boot', boot, 'claim', claim, 'mark', n)
redis.call('HSETNX', KEYS[1], 'started', now())
return answer(attempt, n, entries)
