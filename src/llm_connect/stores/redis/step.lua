-- One step of a process on a budget: all of it is written, or nothing.
--
-- KEYS are those of `keys.py`, in its order. ARGV[1] is the channel, ARGV[2] the step, as `changes.py` writes it down.
-- The reply is text. Its first line: what became of the step, the number of the last change, that of the last change
-- that concerns everybody, the number of the first entry that was written, and the leases
-- that are over. Each further line is the number of a tracker that has changed since this process looked, and its state.
local META, TRACKERS, CHANGED, HOLDS, LEASES, OWNERS, LEDGER = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local OPEN, TOTALS, LABELS, LOST, LEARNED, PLACES, LAST = KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local MOST = 9007199254740991 -- what a number of Lua counts exactly
local KEPT, MOST_KINDS, MOST_LABELS = 10000, 4000, 1000
-- Of a tracker: closed, the lease of a slice, and for each unit limit, spent, held, presumed, sliced.
local STATE = '^(%d) (%S+)' .. string.rep(' (%S+) (%S+) (%S+) (%S+) (%S+)', 3) .. '$'
local WRITTEN = '%s %s' .. string.rep(' %s %.0f %.0f %.0f %.0f', 3)
local FIRST = {2, 7, 12}

local step = cjson.decode(ARGV[2])
local meta = redis.call('HMGET', META, 'schema', 'stamp', 'epoch', 'entries')
if not meta[1] then return 'gone' end
if meta[1] ~= step.schema then return 'schema' end
local stamp, epoch, entries = tonumber(meta[2]), tonumber(meta[3]), tonumber(meta[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local seen, states, written = step.seen, {}, {}
if seen > stamp then seen = 0 end

local function reply(outcome, first)
  local over = table.concat(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 20), ' ')
  local lines = {string.format('%s %.0f %.0f %.0f %s', outcome, stamp, epoch, first or 0, over)}
  if seen ~= stamp then
    local numbers = redis.call('ZRANGEBYSCORE', CHANGED, string.format('(%.0f', seen), '+inf')
    for at = 1, #numbers do
      local number = numbers[at]
      lines[#lines + 1] = number .. ' ' .. (written[number] or redis.call('HGET', TRACKERS, number))
    end
  end
  return table.concat(lines, '\n')
end

-- The answer of a step that was written already got lost.
if step.again then
  local last = redis.call('GET', LAST)
  local number, first = string.match(last or '', '^(%d+) (%d+)$')
  if number and tonumber(number) == step.number then return reply('ok', tonumber(first)) end
end

local lease = step.lease
if lease and not lease[3] then
  local ends = redis.call('ZSCORE', LEASES, lease[1])
  if not ends or tonumber(ends) <= now then return reply('lost') end
end
for _, over in ipairs(step.over or {}) do
  local ends = redis.call('ZSCORE', LEASES, over)
  if not ends or (tonumber(ends) > now and not step.own) then return reply('again') end
end

local stale = seen ~= stamp
if stale and step.number and step.epoch ~= epoch then return reply('again') end
for _, hold in ipairs(step.holds or {}) do
  if hold[2] == 1 and redis.call('HEXISTS', HOLDS, hold[1]) == 0 then return reply((step.over and not step.own) and 'again' or 'missing') end
end
for _, id in ipairs(step.correct or {}) do
  if redis.call('HEXISTS', OPEN, id) == 0 then return reply('again') end
end
for _, id in ipairs(step.late or {}) do
  if redis.call('HEXISTS', LOST, id) == 0 then return reply('again') end
end
for _, new in ipairs(step.new or {}) do
  if redis.call('HEXISTS', TRACKERS, new[1]) == 1 then return reply('again') end
  states[new[1]] = {string.match(new[3], STATE)}
end

local unknown, freed = false, false
local function state(number)
  local known = states[number]
  if known == nil or not known.counted then
    if known == nil then
      local text = redis.call('HGET', TRACKERS, number)
      known = text and {string.match(text, STATE)} or nil
    end
    if known == nil then unknown = true; known = {string.match('0 -' .. string.rep(' - 0 0 0 0', 3), STATE)} end
    for unit = 1, 3 do
      local at = FIRST[unit]
      known[at + 1] = tonumber(known[at + 1]) or '-'
      for figure = at + 2, at + 5 do known[figure] = tonumber(known[figure]) end
    end
    known.counted = true
    states[number] = known
  end
  return known
end

local function aside(of, at)
  if of[2] == '-' or of[at + 1] == '-' then return 0 end
  return math.max(0, of[at + 1] - of[at + 2] - of[at + 3])
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
        of[at + 5] = of[at + 5] + more
        local before = aside(of, at)
        of[at + 2], of[at + 3], of[at + 4] = of[at + 2] + s, of[at + 3] + h, of[at + 4] + p
        if of[2] ~= '-' and of[at + 1] ~= '-' then more = aside(of, at) - before end
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
      of[at + 5] = of[at + 5] + amounts[unit]
      if of[2] ~= '-' and of[at + 1] ~= '-' then break end
    end
  end
end

local function is_open(path)
  for _, number in ipairs(path) do
    if state(number)[1] ~= '0' then return false end
  end
  return true
end

-- Whether all that was added on a path is within its limits.
local function fits(path, needs)
  for unit = 1, 3 do
    local at, need = FIRST[unit], needs[unit]
    for _, number in ipairs(path) do
      local of = state(number)
      local limit = of[at + 1]
      if limit ~= '-' then
        local concerned = need > 0 or of[at + 2] > limit
        if concerned and of[at + 2] + of[at + 3] + of[at + 5] > limit then return false end
        if of[2] ~= '-' then need = 0 end
      end
    end
  end
  return true
end

local NOTHING = {0, 0, 0}
for _, set in ipairs(step.set or {}) do
  local of = state(set[1])
  of[set[2]] = set[3]
  freed = true
end
for _, slice in ipairs(step.slices or {}) do
  local path, of = slice[1], state(slice[1][1])
  local above, amounts = {unpack(path, 2)}, {0, 0, 0}
  if slice[2] == '-' then
    for unit = 1, 3 do amounts[unit] = -aside(of, FIRST[unit]) end
    of[2] = '-'
    freed = true
  else
    of[2] = slice[2]
    for unit = 1, 3 do amounts[unit] = aside(of, FIRST[unit]) end
  end
  set_aside(above, amounts)
end
for _, hold in ipairs(step.holds or {}) do change(hold[3], hold[4], NOTHING, NOTHING) end
for _, entry in ipairs(step.entries or {}) do change(entry[1], NOTHING, entry[2], entry[3]) end
if unknown then return reply('unknown') end
if stale then
  for _, hold in ipairs(step.holds or {}) do
    local needs = hold[5]
    if needs and not fits(hold[3], needs) then return reply('again') end
    if needs and hold[6] == 1 and not is_open(hold[3]) then return reply('again') end
  end
  for _, slice in ipairs(step.slices or {}) do
    local above = {unpack(slice[1], 2)}
    if slice[3] and not (fits(above, slice[3]) and is_open(above)) then return reply('again') end
  end
end
for _, of in pairs(states) do
  for unit = 1, of.counted and 3 or 0 do
    for figure = FIRST[unit] + 2, FIRST[unit] + 5 do
      if of[figure] > MOST or of[figure] < -MOST then return reply('large') end
    end
  end
end

local function sum(key, field, most, amounts)
  local before = redis.call('HGET', key, field)
  if not before and redis.call('HLEN', key) >= most then
    field = step.others
    before = redis.call('HGET', key, field)
  end
  local n, tokens, calls, nano_usd = string.match(before or '0 0 0 0', '^(%S+) (%S+) (%S+) (%S+)$')
  redis.call('HSET', key, field, string.format('%.0f %.0f %.0f %.0f', n + 1, tokens + amounts[1], calls + amounts[2],
    nano_usd + amounts[3]))
end

-- From here on everything is written.
if lease then
  redis.call('ZADD', LEASES, string.format('%.0f', now + lease[2]), lease[1])
  if lease[3] then redis.call('HSET', OWNERS, lease[1], lease[3]) end
end
for _, over in ipairs(step.over or {}) do
  redis.call('ZREM', LEASES, over)
  redis.call('HDEL', OWNERS, over)
end
if not step.number then return reply('ok') end
stamp = stamp + 1
if step.everybody then epoch = epoch + 1 end
for _, new in ipairs(step.new or {}) do
  redis.call('HSET', PLACES, new[1], new[2])
  if new[4] then redis.call('HSET', PLACES, new[4], new[1]) end
  state(new[1])
end
for number, of in pairs(states) do
  local text = string.format(WRITTEN, of[1], of[2],
    of[3] == '-' and '-' or string.format('%.0f', of[3]), of[4], of[5], of[6], of[7],
    of[8] == '-' and '-' or string.format('%.0f', of[8]), of[9], of[10], of[11], of[12],
    of[13] == '-' and '-' or string.format('%.0f', of[13]), of[14], of[15], of[16], of[17])
  written[number] = text
  redis.call('HSET', TRACKERS, number, text)
  redis.call('ZADD', CHANGED, string.format('%.0f', stamp), number)
end
for _, hold in ipairs(step.holds or {}) do
  if hold[7] then redis.call('HSET', HOLDS, hold[1], hold[7]) else redis.call('HDEL', HOLDS, hold[1]) end
end
for _, id in ipairs(step.correct or {}) do redis.call('HDEL', OPEN, id) end
for _, id in ipairs(step.late or {}) do redis.call('HDEL', LOST, id) end
local first = entries + 1
for _, entry in ipairs(step.entries or {}) do
  -- Spent, presumed, its text, the texts of its kind and labels, what is kept of a presumption, and which hold was lost.
  local _, spent, _, text, kind, labels, open, lost = unpack(entry, 1, 8)
  entries = entries + 1
  local id = string.format('%.0f', entries)
  redis.call('RPUSH', LEDGER, id .. ' ' .. text)
  sum(TOTALS, kind, MOST_KINDS, spent)
  for _, label in ipairs(labels) do sum(LABELS, label, MOST_LABELS, spent) end
  if open ~= '' then redis.call('HSET', OPEN, id, open) end
  if lost ~= '' then redis.call('HSET', LOST, lost, id .. ' ' .. (open ~= '' and 'presumed' or 'released')) end
end
if entries >= first then redis.call('LTRIM', LEDGER, -KEPT, -1) end
if step.learned then
  redis.call('DEL', LEARNED)
  for _, factor in ipairs(step.learned) do redis.call('HSET', LEARNED, factor[1], factor[2]) end
end
redis.call('HSET', META, 'stamp', string.format('%.0f', stamp), 'epoch', string.format('%.0f', epoch), 'entries',
  string.format('%.0f', entries))
redis.call('SET', LAST, string.format('%d %.0f', step.number, first), 'PX', 600000)
if freed then redis.call('PUBLISH', ARGV[1], step.client) end
return reply('ok', first)
