-- One step of a process on a budget: all of it is written, or nothing.
--
-- KEYS are the keys of `layout.py`, in its order. ARGV has the channel, the schema, the client, the name of the sums
-- beyond the limit on kinds, a token that identifies this budget among others of its name, the step as `records.py`
-- writes it, and the texts to which the step refers by their places.
--
-- If the step is not written, the reply is one word, the reason. Otherwise it begins with the figures of HEAD: 1 if the
-- lease of the client is valid, the time in milliseconds, the stamp, the epoch (the number of changes that concern
-- every process), the number of the first new entry, the number of ended leases (if the step only asks), and the length
-- of the last part. Then come the states of the trackers that the step has changed, and of the wanted ones that have
-- changed since the client looked, in the form of `layout.py`. The last part has a line for each ended lease, a line
-- with number and window for each of those trackers whose window has changed, and the waiting callers if they have
-- changed.
local META, TRACKERS, CHANGED, HOLDS, LEASES, OWNERS, LEDGER = unpack(KEYS, 1, 7)
local OPEN, TOTALS, LABELS, LOST, LEARNED, PLACES, WINDOWS, WAITERS, LASTS, ALLOTMENTS = unpack(KEYS, 8, 17)
local CHANNEL, SCHEMA, CLIENT, OTHERS, BORN = unpack(ARGV, 1, 5)
local MOST = 9007199254740991 -- the largest integer that a Lua number represents exactly
local KEPT, TRIMMED, MOST_KINDS, MOST_LABELS = 10000, 100, 4000, 1000
-- A tracker: the number, the closed flag, the length of the name of the lease that keeps an allotment open, and the last
-- step that changed the window (0: no window); for each unit the limit (-1: none), spent, held, presumed and allotted
-- amounts. The name of the lease follows.
local STATE = '<i8BBi8' .. string.rep('i8', 15)
local CLOSED, LEASE_SIZE, WINDOW, FIRST, LEASE = 2, 3, 4, {5, 10, 15}, 20
local WINDOW_AT = 11 -- the byte at which that step is stored
local SUM = '<i8i8i8i8'
-- The stamp, the epoch, the number of the last entry, and the stamp of the last change of the waiting callers, which is
-- negative if no caller waits.
local COUNTS = '<i8i8i8i8'
-- The number of a client's last step, and of the first entry that this step wrote.
local LAST = '<i8i8'
local HEAD = '<Bi8i8i8i8i4i4'
-- A number in the text of a window that stands for an entry of this step: 10^18 and the place of the entry, from 0 on.
local TO_COME = '%f[%d]1(' .. string.rep('%d', 18) .. ')%f[%D]'
local NOTHING, NONE = {0, 0, 0}, {}
local call, pack, unpacked = redis.call, struct.pack, struct.unpack

local step = cjson.decode(ARGV[6])
local holds, lines, sets, new = step.holds or NONE, step.entries or NONE, step.set or NONE, step.new or NONE
local over, corrects, late, left = step.over or NONE, step.correct or NONE, step.late or NONE, step.left or NONE
local allotments, windows, told = step.allotments or NONE, step.windows or NONE, step.told or NONE
local amends, amended = step.amend or NONE, {}
local meta = call('HMGET', META, 'schema', 'counts', 'born')
if not meta[1] then return 'gone' end
if meta[1] ~= SCHEMA then return 'schema' end
if (meta[3] or '') ~= BORN then return 'other' end
local stamp, epoch, entries, waiting = unpacked(COUNTS, meta[2])
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- The client's copies of this step's trackers may be older than its list of waiting callers.
local seen, states, written = step.seen, {}, {}
local since = step.old or seen
if (step.known or seen) > stamp then return 'older' end
local stale = since ~= stamp

-- The waiting callers, a line each; expired ones are deleted.
local function callers()
  local lines = {}
  local all = waiting > 0 and call('HGETALL', WAITERS) or NONE
  for at = 1, #all, 2 do
    local ends = tonumber(string.match(all[at + 1], '^%d+'))
    if ends > now then
      lines[#lines + 1] = all[at] .. ' ' .. all[at + 1] .. '\n'
    else
      call('HDEL', WAITERS, all[at])
    end
  end
  if waiting > 0 and #lines == 0 then
    waiting = -waiting
    call('HSET', META, 'counts', pack(COUNTS, stamp, epoch, entries, waiting))
  end
  return 'waiters\n' .. table.concat(lines)
end

local function reply(stands, first)
  local parts, last = {''}, {}
  local ended = step.number and NONE or call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 20)
  for at = 1, #ended do last[at] = ended[at] .. '\n' end
  if stale then
    for _, number in ipairs(step.want or NONE) do
      if not written[number] and (tonumber(call('ZSCORE', CHANGED, number)) or 0) > since then
        written[number] = call('HGET', TRACKERS, number) or nil
      end
    end
  end
  for number, text in pairs(written) do
    parts[#parts + 1] = text
    if unpacked('<i8', text, WINDOW_AT) > since then
      last[#last + 1] = number .. ' ' .. call('HGET', WINDOWS, number) .. '\n'
    end
  end
  if math.abs(waiting) > seen or (waiting > 0 and not step.number) then last[#last + 1] = callers() end
  last = table.concat(last)
  parts[1] = pack(HEAD, stands and 1 or 0, now, stamp, epoch, first or 0, #ended, #last)
  return table.concat(parts) .. last
end

-- The reply of a step that is written already was lost; or a step arrives that was sent again meanwhile.
if step.number and (step.again or stale) then
  local last = call('HGET', LASTS, CLIENT)
  if last then
    local number, first = unpacked(LAST, last)
    if number == step.number then return reply(true, first) end
    if number > step.number then return 'again' end
  end
end

local lease = step.lease
if lease and not lease[3] then
  local ends = call('ZSCORE', LEASES, lease[1])
  if not ends or tonumber(ends) <= now then return step.number and 'lost' or reply(false) end
end
for at = 1, #over do
  local ends = call('ZSCORE', LEASES, over[at])
  if not ends or (tonumber(ends) > now and not step.own) then return 'again' end
end

-- Without the client's last step, this is a restored state.
if stale and step.last then
  local last = call('HGET', LASTS, CLIENT)
  if not last or unpacked(LAST, last) < step.last then return 'older' end
end
if stale and step.number and step.epoch ~= epoch then return 'again' end
for at = 1, #holds do
  local hold = holds[at]
  if hold[2] == 1 and call('HEXISTS', HOLDS, hold[1]) == 0 then
    return (step.over and not step.own) and 'again' or 'missing'
  end
end
for at = 1, #corrects do
  if call('HEXISTS', OPEN, corrects[at]) == 0 then return 'again' end
end
-- The text of a settled entry contains its tracker's number until the entry is amended.
for at = 1, #amends do
  local kept = call('LINDEX', LEDGER, amends[at] - entries - 1)
  local id, text = string.match(kept or '', '^(%d+) %d+ (.*)$')
  if not id or tonumber(id) ~= amends[at] then return 'again' end
  amended[at] = id .. ' ' .. text
end
for at = 1, #late do
  if call('HEXISTS', LOST, late[at]) == 0 then return 'again' end
end
for at = 1, #new do
  local number, values = new[at][1], new[at][3]
  if call('HEXISTS', TRACKERS, number) == 1 then return 'again' end
  values[LEASE] = ''
  states[number] = values
end

local unknown, freed = false, false
local function state(number)
  local known = states[number]
  if known then return known end
  local text = call('HGET', TRACKERS, number)
  if text then
    known = {unpacked(STATE, text)}
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

-- Adds to the held, spent and presumed amounts of a path, and updates the allotted amounts above its allotments.
local function change(path, held, spent, presumed)
  for unit = 1, 3 do
    local h, s, p, more = held[unit], spent[unit], presumed[unit], 0
    if h ~= 0 or s ~= 0 or p ~= 0 then
      freed = freed or h < 0 or s < 0
      local at = FIRST[unit]
      for level = 1, #path do
        local of = state(path[level])
        local is_allotment = of[LEASE] ~= '' and of[at] >= 0
        local before = is_allotment and aside(of, at)
        of[at + 1], of[at + 2], of[at + 3] = of[at + 1] + s, of[at + 2] + h, of[at + 3] + p
        of[at + 4] = of[at + 4] + more
        if is_allotment then more = aside(of, at) - before end
      end
    end
  end
end

-- Adds to the allotted amounts of a path, up to the next allotment.
local function set_aside(path, amounts)
  for unit = 1, 3 do
    local at = FIRST[unit]
    for level = 1, #path do
      local of = state(path[level])
      of[at + 4] = of[at + 4] + amounts[unit]
      if of[LEASE] ~= '' and of[at] >= 0 then break end
    end
  end
end

local function is_open(path)
  for level = 1, #path do
    if state(path[level])[CLOSED] ~= 0 then return false end
  end
  return true
end

-- True if the needed amounts are within the limits of a path.
local function fits(path, needs)
  for unit = 1, 3 do
    local at, need = FIRST[unit], needs[unit]
    for level = 1, #path do
      local of = state(path[level])
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

for at = 1, #sets do
  local set = sets[at]
  local of = state(set[1])
  of[set[2]] = set[3]
  freed = true
end
for at = 1, #allotments do
  local allotment = allotments[at]
  local path, of = allotment[1], state(allotment[1][1])
  local above, amounts = {unpack(path, 2)}, {0, 0, 0}
  if allotment[2] == '' then
    for unit = 1, 3 do amounts[unit] = -aside(of, FIRST[unit]) end
    freed = true
  end
  of[LEASE], of[LEASE_SIZE] = allotment[2], #allotment[2]
  if allotment[2] ~= '' then
    for unit = 1, 3 do amounts[unit] = aside(of, FIRST[unit]) end
  end
  set_aside(above, amounts)
end
for at = 1, #holds do change(holds[at][3], holds[at][4], NOTHING, NOTHING) end
for at = 1, #lines do change(lines[at][1], NOTHING, lines[at][2], lines[at][3]) end
for at = 1, #left do
  local path = left[at][1]
  local of, rests, grown = state(path[1]), {}, {}
  for unit = 1, 3 do rests[unit] = aside(of, FIRST[unit]) end
  change({path[1]}, NOTHING, left[at][2], left[at][3])
  for unit = 1, 3 do grown[unit] = aside(of, FIRST[unit]) - rests[unit] end
  if of[LEASE] ~= '' then set_aside({unpack(path, 2)}, grown) end
end
for at = 1, #windows do
  local window = windows[at]
  state(window[1])
  if stale and (tonumber(call('ZSCORE', CHANGED, window[1])) or 0) > since then return 'again' end
end
if unknown then return 'unknown' end
if stale then
  -- A client that has just asked came before the callers that wait since; otherwise it might be put off for ever.
  local passes = not step.fresh and math.abs(waiting) > seen
  for _, of in pairs(states) do
    if of[WINDOW] > since then return 'again' end
  end
  for at = 1, #holds do
    local hold = holds[at]
    local needs = hold[5]
    if passes and hold[2] == 0 then return 'again' end
    if needs and not fits(hold[3], needs) then return 'again' end
    if needs and hold[6] == 1 and not is_open(hold[3]) then return 'again' end
  end
  for at = 1, #allotments do
    local allotment = allotments[at]
    local above = {unpack(allotment[1], 2)}
    if allotment[3] and not (fits(above, allotment[3]) and is_open(above)) then return 'again' end
  end
end
for _, of in pairs(states) do
  for figure = FIRST[1], LEASE - 1 do
    if of[figure] > MOST or of[figure] < -MOST then return 'large' end
  end
end

local function sum(key, field, most, amounts)
  local before = call('HGET', key, field)
  if not before and call('HLEN', key) >= most then
    field = OTHERS
    before = call('HGET', key, field)
  end
  local n, tokens, calls, nano_usd = 0, 0, 0, 0
  if before then n, tokens, calls, nano_usd = unpacked(SUM, before) end
  call('HSET', key, field,
    pack(SUM, n + 1, tokens + amounts[1], calls + amounts[2], nano_usd + amounts[3]))
end

-- All conditions hold: from here on, everything is written.
if lease then
  if lease[2] > 0 then call('ZADD', LEASES, now + lease[2], lease[1]) end
  if lease[3] then call('HSET', OWNERS, lease[1], lease[3]) end
end
for at = 1, #over do
  local lease_over = over[at]
  call('ZREM', LEASES, lease_over)
  -- Another client may come back and send its last step again, so the record of that step stays.
  if step.own then call('HDEL', LASTS, CLIENT) end
  call('HDEL', OWNERS, lease_over)
end
if not step.number then return reply(true) end
stamp = stamp + 1
local everybody = step.learned or #allotments > 0
for at = 1, #new do
  local number, place, _, joined = unpack(new[at], 1, 4)
  call('HSET', PLACES, number, place)
  if joined then call('HSET', PLACES, joined, number) end
  everybody = everybody or joined
end
if everybody then epoch = epoch + 1 end
for at = 1, #allotments do
  local path, of_lease = allotments[at][1], allotments[at][2]
  if of_lease == '' then
    call('HDEL', ALLOTMENTS, path[1])
  else
    call('HSET', ALLOTMENTS, path[1], of_lease .. ' ' .. table.concat(path, ' '))
  end
end
for at = 1, #windows do
  local window = windows[at]
  states[window[1]][WINDOW] = stamp
  call('HSET', WINDOWS, window[1], (string.gsub(window[2], TO_COME, function(later)
    return string.format('%.0f', entries + 1 + later)
  end)))
end
for number, of in pairs(states) do
  local text = pack(STATE, unpack(of, 1, LEASE - 1)) .. of[LEASE]
  written[number] = text
  call('HSET', TRACKERS, number, text)
  call('ZADD', CHANGED, stamp, number)
end
for at = 1, #holds do
  local hold = holds[at]
  if hold[7] then call('HSET', HOLDS, hold[1], ARGV[hold[7]]) else call('HDEL', HOLDS, hold[1]) end
end
for at = 1, #corrects do call('HDEL', OPEN, corrects[at]) end
for at = 1, #late do call('HDEL', LOST, late[at]) end
for at = 1, #amends do call('LSET', LEDGER, amends[at] - entries - 1, amended[at]) end
local first = entries + 1
for at = 1, #lines do
  local entry = lines[at]
  -- The path, spent, presumed, the places of the texts of entry, kind and labels, the presumed flag, and the lost hold.
  local path, spent, _, place, kind, labels, open, lost = unpack(entry, 1, 8)
  entries = entries + 1
  local id, text = string.format('%.0f', entries), ARGV[place]
  call('RPUSH', LEDGER, (path[1] and id .. ' ' .. path[1] or id) .. ' ' .. text)
  if ARGV[kind] == '' then sum(META, 'expired', math.huge, spent) else sum(TOTALS, ARGV[kind], MOST_KINDS, spent) end
  for _, label in ipairs(labels) do sum(LABELS, ARGV[label], MOST_LABELS, spent) end
  if open then call('HSET', OPEN, id, path[1] .. ' ' .. text) end
  if lost then call('HSET', LOST, lost, id .. ' ' .. (open and 'presumed' or 'released')) end
end
if entries >= first and entries % TRIMMED < #lines then call('LTRIM', LEDGER, -KEPT, -1) end
if step.learned then
  call('DEL', LEARNED)
  for _, factor in ipairs(step.learned) do call('HSET', LEARNED, factor[1], factor[2]) end
end
if step.told or step.forgotten then
  for at = 1, #told do
    local caller = told[at]
    call('HSET', WAITERS, caller[1], string.format('%.0f %s', now + caller[3], caller[2]))
  end
  if step.forgotten then
    call('HDEL', WAITERS, unpack(step.forgotten))
    freed = true
  end
  waiting = call('HLEN', WAITERS) > 0 and stamp or -stamp
end
call('HSET', META, 'counts', pack(COUNTS, stamp, epoch, entries, waiting))
-- A step that ends leases needs no record: sent again, it is refused, because they have ended.
if not step.over then call('HSET', LASTS, CLIENT, pack(LAST, step.number, first)) end
if freed then call('PUBLISH', CHANNEL, CLIENT) end
return reply(true, first)
