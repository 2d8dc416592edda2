-- Moves in what plain producers LPUSHed on kombu's lists (one per priority step), oldest first, as if it was sent now.
local STEPS, LONGEST_MESSAGE, LONGEST_NAME = 9, 8 * 1024 * 1024, 255

local function is_name(s)
  return type(s) == 'string' and s ~= '' and #s <= LONGEST_NAME and not s:find('\n', 1, true)
end

local function stock_lists(queue)
  local lists = {queue}
  for step = 1, STEPS do lists[step + 1] = queue .. '\6\22' .. step end
  return lists
end

-- A stock producer's 0 means "none given": kombu makes None and 0 equal.
local function priority_of(properties, default)
  local p = tonumber(properties.priority)
  if not p or p ~= p or p == 0 then return default end
  return math.max(0, math.min(STEPS, p))
end

-- id, tag, priority; nil for what is no message.
local function identify(message, default)
  if #message > LONGEST_MESSAGE then return nil end
  local ok, m = pcall(cjson.decode, message)
  local p = ok and type(m) == 'table' and m.properties
  if type(p) ~= 'table' or not is_name(p.delivery_tag) then return nil end
  local id = type(m.headers) == 'table' and is_name(m.headers.id) and m.headers.id or p.delivery_tag
  return id, p.delivery_tag, priority_of(p, default)
end

-- How many were taken off the lists, and how many of those were refused.
local function absorb(queue, most, ageing, default)
  local moved, bad, lists = 0, 0, stock_lists(queue)
  if redis.call('EXISTS', unpack(lists)) == 0 then return 0, 0 end
  local now = now_ms()
  for _, list in ipairs(lists) do
    while moved < most do
      local message = redis.call('RPOP', list)
      if not message then break end
      local id, tag, priority = identify(message, default)
      if id then enqueue(queue, id, now + priority * ageing + moved / 1000, '0\n' .. tag .. '\n' .. message)
      else refuse(queue, message); bad = bad + 1 end
      moved = moved + 1
    end
  end
  return moved, bad
end
