-- End a job from outside: cancelled, expired, failed.
-- ARGV: state, result ttl ms, error, error type; then, to make a record where there is none, as `create`.
-- Returns false where there is no record, else {stopped now, owner's boot, record's fields}.
local state, keep, reason, kind = unpack(ARGV)
if reason == '' then reason, kind = nil, nil end
if not get('state') then
  if #ARGV == 4 then return false end
  create('', 0, 5)
end
local boot = get('boot') or ''
local due = state ~= 'expired' or overdue()
if TERMINAL[get('state')] or not due then return { 0, boot, record() } end
stop(state, keep, reason, kind)
return { 1, boot, record() }
