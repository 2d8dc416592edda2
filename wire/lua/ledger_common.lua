-- Shared by the ledger's scripts. KEYS: record, log, channel, tombstone, index of the open jobs.
-- FIELDS, the record's fields in the order of wire/record.py, is put in front of this text.

-- Milliseconds after which a job that is new is looked at by the reconciler: its submitter has had time to queue it.
local FIRST_LOOK = 10000

local TERMINAL = { completed = true, failed = true, cancelled = true, expired = true }

-- Redis time in milliseconds: the only clock that orders what hosts do.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function get(field)
  return redis.call('HGET', KEYS[1], field)
end

local function number(field)
  return tonumber(get(field) or 0) or 0
end

local function record()
  return redis.call('HMGET', KEYS[1], unpack(FIELDS))
end

-- Attempt, count and bytes of the log's last entry; 0, 0 where there is no log.
local function top()
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  if not last then return 0, 0, nil end
  local attempt, n = string.match(last[1], '^(%d+)-(%d+)$')
  return tonumber(attempt), tonumber(n), last[2][2]
end

local function log(attempt, n, event)
  redis.call('XADD', KEYS[2], attempt .. '-' .. n, 'e', event)
end

-- ARGV from `first` on: wire version, job, model, queue, ttl ms, ms in which to start or 0, prompt tokens, gateway,
-- tenant.
local function create(digest, attempt, first)
  local v, body, model, queue, ttl, start, prompt_tokens, gateway, tenant = unpack(ARGV, first, first + 8)
  local created = now()
  local deadline, start_by = created + ttl, tonumber(start) > 0 and created + start or 0
  redis.call('HSET', KEYS[1], 'v', v, 'job', body, 'model', model, 'digest', digest, 'queue', queue,
    'state', 'queued', 'attempt', attempt, 'prompt_tokens', prompt_tokens,
    'created', created, 'deadline', deadline, 'start_by', start_by, 'gateway', gateway, 'tenant', tenant,
    'askers', 1)
  local look = math.min(created + FIRST_LOOK, deadline)
  if start_by > 0 then look = math.min(look, start_by) end
  redis.call('ZADD', KEYS[5], look, KEYS[1]:match('{(.*)}'))
end

-- As Record.limit in wire/record.py.
local function overdue()
  local start_by = number('start_by')
  return number('deadline') <= now() or (not get('started') and start_by > 0 and start_by <= now())
end

-- The start marker of an attempt. It fences every older attempt: Redis takes no smaller id from here on.
local function mark(attempt, n)
  local event = cmsgpack.pack({ type = attempt == 1 and 'started' or 'resumed', attempt = attempt, seq = n })
  log(attempt, n, event)
  if attempt > 1 then redis.call('PUBLISH', KEYS[3], event) end
end

-- Only here does a record get an expiry.
local function close(state, attempt, completion_tokens, keep)
  redis.call('HSET', KEYS[1], 'state', state, 'attempt', attempt, 'finished', now(),
    'completion_tokens', completion_tokens)
  redis.call('PEXPIRE', KEYS[1], keep)
  redis.call('PEXPIRE', KEYS[2], keep)
  redis.call('ZREM', KEYS[5], KEYS[1]:match('{(.*)}'))
end

-- End the job from outside its attempt: the next attempt's one entry is the end. Returns nothing.
local function stop(state, keep, reason, kind)
  local attempt, n = top()
  attempt = math.max(attempt, number('attempt')) + 1
  local prompt = number('prompt_tokens')
  local event = cmsgpack.pack({ type = state, seq = n, error = reason, error_type = kind,
    usage = { prompt_tokens = prompt, completion_tokens = n, total_tokens = prompt + n } })
  log(attempt, n + 1, event)
  redis.call('PUBLISH', KEYS[3], event)
  if reason then redis.call('HSET', KEYS[1], 'error', reason, 'error_type', kind) end
  close(state, attempt, n, keep)
end
