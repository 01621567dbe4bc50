-- Create a budget, or return the version of an existing one.
if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('HGET', KEYS[1], 'schema') end
redis.call('HSET', KEYS[1], 'schema', ARGV[1], 'counts', struct.pack('<i8i8i8i8', 1, 1, 0, 0), 'on_unknown', ARGV[2],
  'name', ARGV[3], 'born', ARGV[6], 'allotments', '1')
redis.call('HSET', KEYS[2], 1, ARGV[4])
redis.call('ZADD', KEYS[3], 1, 1)
if ARGV[5] ~= '' then redis.call('HSET', KEYS[4], 1, ARGV[5]) end
return 'made'
