-- Add a list of open allotments to a budget of a version without such a list.
local META, TRACKERS, PLACES, ALLOTMENTS = unpack(KEYS)
if redis.call('HSETNX', META, 'allotments', '1') == 0 then return end
local all = redis.call('HGETALL', TRACKERS)
for at = 1, #all, 2 do
  local lease, place, path = string.sub(all[at + 1], tonumber(ARGV[1]) + 1), all[at], {}
  while lease ~= '' and place ~= '0' do
    path[#path + 1] = place
    local above = redis.call('HGET', PLACES, place)
    place = above and string.format('%.0f', cjson.decode(above)[1]) or '0'
  end
  if lease ~= '' then redis.call('HSET', ALLOTMENTS, all[at], lease .. ' ' .. table.concat(path, ' ')) end
end
