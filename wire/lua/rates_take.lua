-- Take a request and its tokens off what a key may use, both or neither. KEYS the key's hash
-- ARGV requests per minute, tokens per minute, 0 for no limit; tokens of this request
-- -> {1 taken | 0 not; then of requests and of tokens: left now, ms until all is there again, ms until this would fit}
-- Each limit is a bucket that holds a minute's worth and fills evenly. Kept is what was missing in it at a moment, until
-- nothing is.
local MINUTE = 60000
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local used = redis.call('HMGET', KEYS[1], 'at', 'requests', 'tokens')
local passed = math.max(0, now - (tonumber(used[1] or '') or now))

local function bucket(missing, limit, cost)
  if limit == 0 then return { each = 0, limit = 0, missing = 0, cost = 0, wait = 0 } end
  local each = MINUTE / limit
  missing = math.max(0, (tonumber(missing or '') or 0) - passed / each)
  local wait = math.max(0, missing + cost - limit) * each
  return { each = each, limit = limit, missing = missing, cost = cost, wait = wait }
end

local requests = bucket(used[2], tonumber(ARGV[1]), 1)
local tokens = bucket(used[3], tonumber(ARGV[2]), tonumber(ARGV[3]))
local taken = requests.wait == 0 and tokens.wait == 0
local reply, reset = { taken and 1 or 0 }, 0
for _, b in ipairs({ requests, tokens }) do
  if taken then b.missing = b.missing + b.cost end
  reset = math.max(reset, b.missing * b.each)
  reply[#reply + 1] = math.floor(b.limit - b.missing)
  reply[#reply + 1] = math.ceil(b.missing * b.each)
  reply[#reply + 1] = math.ceil(b.wait)
end
if taken and reset > 0 then
  redis.call('HSET', KEYS[1], 'at', string.format('%.3f', now),
    'requests', string.format('%.17g', requests.missing), 'tokens', string.format('%.17g', tokens.missing))
  redis.call('PEXPIRE', KEYS[1], math.ceil(reset))
end
return reply
