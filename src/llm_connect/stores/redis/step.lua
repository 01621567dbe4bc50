-- One step of a process on a budget: all of it is written, or nothing.
--
-- KEYS are those of `keys.py`, in its order. ARGV has the channel, the schema, who asks, what sums beyond the last kind
-- count under, the step as `changes.py` writes it down, and the texts that it has the places of.
-- The reply of a step that was not written is one word, which says why. That of others begins with a line: the word, the
-- time in milliseconds, the number of the last change, that of the last change that concerns everybody, the number of the
-- first entry that was written, and how long the last part is; when the step only asks, the leases that are over as well.
-- Then come the states of the trackers that have changed since this process looked, as `states.py` reads them. The last part
-- has a line for each of those whose window has changed, its number and the window; and when that has changed, who waits.
local META, TRACKERS, CHANGED, HOLDS, LEASES, OWNERS, LEDGER = unpack(KEYS, 1, 7)
local OPEN, TOTALS, LABELS, LOST, LEARNED, PLACES, WINDOWS, WAITERS, LASTS = unpack(KEYS, 8, 16)
local CHANNEL, SCHEMA, CLIENT, OTHERS = unpack(ARGV, 1, 4)
local MOST = 9007199254740991 -- what a number of Lua counts exactly
local KEPT, TRIMMED, MOST_KINDS, MOST_LABELS = 10000, 100, 4000, 1000
-- Of a tracker: number, closed, how long the name of the lease is that keeps a slice open, the number of the step that has
-- changed its window last (0: it has none), for each unit limit (-1: none), spent, held, presumed, sliced; and the name of that
-- lease behind them.
local STATE = '<i8BBi8' .. string.rep('i8', 15)
local CLOSED, LEASE_SIZE, WINDOW, FIRST, LEASE = 2, 3, 4, {5, 10, 15}, 20
local WINDOW_AT = 11 -- the byte at which that step stands
local SUM = '<i8i8i8i8'
-- The numbers of the last change, of the last that concerns everybody, of the last entry, and of the last change that
-- concerns who waits; that is below 0 when nobody does.
local COUNTS = '<i8i8i8i8'
local NOTHING, NONE = {0, 0, 0}, {}

local step = cjson.decode(ARGV[5])
local meta = redis.call('HMGET', META, 'schema', 'counts')
if not meta[1] then return 'gone' end
if meta[1] ~= SCHEMA then return 'schema' end
local stamp, epoch, entries, waiting = struct.unpack(COUNTS, meta[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local seen, states, written = step.seen, {}, {}
if seen > stamp then seen = 0 end
local stale = seen ~= stamp

-- All that wait, a line each; those whose time is over are forgotten.
local function callers()
  local lines = {}
  local all = waiting > 0 and redis.call('HGETALL', WAITERS) or NONE
  for at = 1, #all, 2 do
    local ends = tonumber(string.match(all[at + 1], '^%d+'))
    if ends > now then
      lines[#lines + 1] = all[at] .. ' ' .. all[at + 1] .. '\n'
    else
      redis.call('HDEL', WAITERS, all[at])
    end
  end
  if waiting > 0 and #lines == 0 then
    waiting = -waiting
    redis.call('HSET', META, 'counts', struct.pack(COUNTS, stamp, epoch, entries, waiting))
  end
  return 'waiters\n' .. table.concat(lines)
end

local function reply(outcome, first)
  local over = ''
  if not step.number then
    over = ' ' .. table.concat(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 20), ' ')
  end
  local parts, last = {''}, ''
  local function add(number, text)
    parts[#parts + 1] = text
    if struct.unpack('<i8', text, WINDOW_AT) > seen then
      last = last .. number .. ' ' .. redis.call('HGET', WINDOWS, number) .. '\n'
    end
  end
  if stale then
    for _, number in ipairs(redis.call('ZRANGEBYSCORE', CHANGED, string.format('(%.0f', seen), '+inf')) do
      add(number, written[number] or redis.call('HGET', TRACKERS, number))
    end
  else
    for number, text in pairs(written) do add(number, text) end
  end
  if math.abs(waiting) > seen or (waiting > 0 and not step.number) then last = last .. callers() end
  parts[1] = string.format('%s %.0f %.0f %.0f %.0f %d%s\n', outcome, now, stamp, epoch, first or 0, #last, over)
  parts[#parts + 1] = last
  return table.concat(parts)
end

-- The answer of a step that was written already got lost.
if step.again then
  local last = redis.call('HGET', LASTS, CLIENT)
  local number, first = string.match(last or '', '^(%d+) (%d+)$')
  if number and tonumber(number) == step.number then return reply('ok', tonumber(first)) end
end

local lease = step.lease
if lease and not lease[3] then
  local ends = redis.call('ZSCORE', LEASES, lease[1])
  if not ends or tonumber(ends) <= now then return step.number and 'lost' or reply('lost') end
end
for _, over in ipairs(step.over or NONE) do
  local ends = redis.call('ZSCORE', LEASES, over)
  if not ends or (tonumber(ends) > now and not step.own) then return 'again' end
end

if stale and step.number and step.epoch ~= epoch then return 'again' end
for _, hold in ipairs(step.holds or NONE) do
  if hold[2] == 1 and redis.call('HEXISTS', HOLDS, hold[1]) == 0 then
    return (step.over and not step.own) and 'again' or 'missing'
  end
end
for _, id in ipairs(step.correct or NONE) do
  if redis.call('HEXISTS', OPEN, id) == 0 then return 'again' end
end
for _, id in ipairs(step.late or NONE) do
  if redis.call('HEXISTS', LOST, id) == 0 then return 'again' end
end
for _, new in ipairs(step.new or NONE) do
  if redis.call('HEXISTS', TRACKERS, new[1]) == 1 then return 'again' end
  states[new[1]] = new[3]
  new[3][LEASE] = ''
end

local unknown, freed = false, false
local function state(number)
  local known = states[number]
  if known then return known end
  local text = redis.call('HGET', TRACKERS, number)
  if text then
    known = {struct.unpack(STATE, text)}
    known[LEASE] = known[LEASE_SIZE] == 0 and '' or string.sub(text, known[LEASE])
  else
    unknown = true
    known = {0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 0, 0, 0, 0, ''}
  end
  states[number] = known
  return known
end

local function aside(of, at)
  if of[LEASE] == '' or of[at] < 0 then return 0 end
  return math.max(0, of[at] - of[at + 1] - of[at + 2])
end

-- Adds to what is held, spent and presumed on a path; what a slice sets aside above it changes with that.
local function change(path, held, spent, presumed)
  for unit = 1, 3 do
    local h, s, p, more = held[unit] or 0, spent[unit] or 0, presumed[unit] or 0, 0
    if h ~= 0 or s ~= 0 or p ~= 0 then
      freed = freed or h < 0 or s < 0
      local at = FIRST[unit]
      for _, number in ipairs(path) do
        local of = state(number)
        of[at + 4] = of[at + 4] + more
        local before = aside(of, at)
        of[at + 1], of[at + 2], of[at + 3] = of[at + 1] + s, of[at + 2] + h, of[at + 3] + p
        if of[LEASE] ~= '' and of[at] >= 0 then more = aside(of, at) - before end
      end
    end
  end
end

-- Sets so much aside on a path, up to the next slice.
local function set_aside(path, amounts)
  for unit = 1, 3 do
    local at = FIRST[unit]
    for _, number in ipairs(path) do
      local of = state(number)
      of[at + 4] = of[at + 4] + amounts[unit]
      if of[LEASE] ~= '' and of[at] >= 0 then break end
    end
  end
end

local function is_open(path)
  for _, number in ipairs(path) do
    if state(number)[CLOSED] ~= 0 then return false end
  end
  return true
end

-- Whether all that was added on a path is within its limits.
local function fits(path, needs)
  for unit = 1, 3 do
    local at, need = FIRST[unit], needs[unit]
    for _, number in ipairs(path) do
      local of = state(number)
      local limit = of[at]
      if limit >= 0 then
        local concerned = need > 0 or of[at + 1] > limit
        if concerned and of[at + 1] + of[at + 2] + of[at + 4] > limit then return false end
        if of[LEASE] ~= '' then need = 0 end
      end
    end
  end
  return true
end

for _, set in ipairs(step.set or NONE) do
  local of = state(set[1])
  of[set[2]] = set[3]
  freed = true
end
for _, slice in ipairs(step.slices or NONE) do
  local path, of = slice[1], state(slice[1][1])
  local above, amounts = {unpack(path, 2)}, {0, 0, 0}
  if slice[2] == '' then
    for unit = 1, 3 do amounts[unit] = -aside(of, FIRST[unit]) end
    freed = true
  end
  of[LEASE], of[LEASE_SIZE] = slice[2], #slice[2]
  if slice[2] ~= '' then
    for unit = 1, 3 do amounts[unit] = aside(of, FIRST[unit]) end
  end
  set_aside(above, amounts)
end
for _, hold in ipairs(step.holds or NONE) do change(hold[3], hold[4], NOTHING, NOTHING) end
for _, entry in ipairs(step.entries or NONE) do change(entry[1], NOTHING, entry[2], entry[3]) end
for _, left in ipairs(step.left or NONE) do change({left[1]}, NOTHING, left[2], left[3]) end
for _, window in ipairs(step.windows or NONE) do
  state(window[1])
  if stale and (tonumber(redis.call('ZSCORE', CHANGED, window[1])) or 0) > seen then return 'again' end
end
if unknown then return 'unknown' end
if stale then
  -- Who has just asked came before those who wait since: else whoever is slow might be put off for ever.
  local passes = not step.fresh and math.abs(waiting) > seen
  for _, of in pairs(states) do
    if of[WINDOW] > seen then return 'again' end
  end
  for _, hold in ipairs(step.holds or NONE) do
    local needs = hold[5]
    if passes and hold[2] == 0 then return 'again' end
    if needs and not fits(hold[3], needs) then return 'again' end
    if needs and hold[6] == 1 and not is_open(hold[3]) then return 'again' end
  end
  for _, slice in ipairs(step.slices or NONE) do
    local above = {unpack(slice[1], 2)}
    if slice[3] and not (fits(above, slice[3]) and is_open(above)) then return 'again' end
  end
end
for _, of in pairs(states) do
  for figure = FIRST[1], LEASE - 1 do
    if of[figure] > MOST or of[figure] < -MOST then return 'large' end
  end
end

local function sum(key, field, most, amounts)
  local before = redis.call('HGET', key, field)
  if not before and redis.call('HLEN', key) >= most then
    field = OTHERS
    before = redis.call('HGET', key, field)
  end
  local n, tokens, calls, nano_usd = 0, 0, 0, 0
  if before then n, tokens, calls, nano_usd = struct.unpack(SUM, before) end
  redis.call('HSET', key, field,
    struct.pack(SUM, n + 1, tokens + amounts[1], calls + amounts[2], nano_usd + amounts[3]))
end

-- From here on everything is written.
if lease then
  if lease[2] > 0 then redis.call('ZADD', LEASES, now + lease[2], lease[1]) end
  if lease[3] then redis.call('HSET', OWNERS, lease[1], lease[3]) end
end
for _, over in ipairs(step.over or NONE) do
  redis.call('ZREM', LEASES, over)
  local owner = redis.call('HGET', OWNERS, over)
  if owner then redis.call('HDEL', LASTS, cjson.decode(owner)[3]) end
  redis.call('HDEL', OWNERS, over)
end
if not step.number then return reply('ok') end
stamp = stamp + 1
if step.everybody then epoch = epoch + 1 end
for _, new in ipairs(step.new or NONE) do
  redis.call('HSET', PLACES, new[1], new[2])
  if new[4] then redis.call('HSET', PLACES, new[4], new[1]) end
  state(new[1])
end
for _, window in ipairs(step.windows or NONE) do
  states[window[1]][WINDOW] = stamp
  redis.call('HSET', WINDOWS, window[1], (string.gsub(window[2], '@(%d+)', function(later)
    return string.format('%.0f', entries + 1 + later)
  end)))
end
for number, of in pairs(states) do
  local text = struct.pack(STATE, unpack(of, 1, LEASE - 1)) .. of[LEASE]
  written[number] = text
  redis.call('HSET', TRACKERS, number, text)
  redis.call('ZADD', CHANGED, stamp, number)
end
for _, hold in ipairs(step.holds or NONE) do
  if hold[7] then redis.call('HSET', HOLDS, hold[1], ARGV[hold[7]]) else redis.call('HDEL', HOLDS, hold[1]) end
end
for _, id in ipairs(step.correct or NONE) do redis.call('HDEL', OPEN, id) end
for _, id in ipairs(step.late or NONE) do redis.call('HDEL', LOST, id) end
local first = entries + 1
for _, entry in ipairs(step.entries or NONE) do
  -- Its path, spent, presumed, places of its text, of its kind and of its labels, whether it is presumed, which hold was lost.
  local path, spent, _, place, kind, labels, open, lost = unpack(entry, 1, 8)
  entries = entries + 1
  local id, text = string.format('%.0f', entries), ARGV[place]
  redis.call('RPUSH', LEDGER, id .. ' ' .. text)
  if ARGV[kind] == '' then sum(META, 'expired', math.huge, spent) else sum(TOTALS, ARGV[kind], MOST_KINDS, spent) end
  for _, label in ipairs(labels) do sum(LABELS, ARGV[label], MOST_LABELS, spent) end
  if open then redis.call('HSET', OPEN, id, path[1] .. ' ' .. text) end
  if lost then redis.call('HSET', LOST, lost, id .. ' ' .. (open and 'presumed' or 'released')) end
end
if entries >= first and entries % TRIMMED < #step.entries then redis.call('LTRIM', LEDGER, -KEPT, -1) end
if step.learned then
  redis.call('DEL', LEARNED)
  for _, factor in ipairs(step.learned) do redis.call('HSET', LEARNED, factor[1], factor[2]) end
end
if step.told or step.forgotten then
  for _, caller in ipairs(step.told or NONE) do
    redis.call('HSET', WAITERS, caller[1], string.format('%.0f %s', now + caller[3], caller[2]))
  end
  if step.forgotten then
    redis.call('HDEL', WAITERS, unpack(step.forgotten))
    freed = true
  end
  waiting = redis.call('HLEN', WAITERS) > 0 and stamp or -stamp
end
redis.call('HSET', META, 'counts', struct.pack(COUNTS, stamp, epoch, entries, waiting))
-- Sent again, a step that ends leases is refused, since they are over.
if not step.over then redis.call('HSET', LASTS, CLIENT, string.format('%.0f %.0f', step.number, first)) end
if freed then redis.call('PUBLISH', CHANNEL, CLIENT) end
return reply('ok', first)
