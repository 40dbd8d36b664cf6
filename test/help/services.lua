-- services.lua: rpcs and pools, for stories.
local services = {}

--- Closes an rpc and waits until its process is gone.
function services.finish_rpc(t, rpc)
  local p = rpc:process()
  rpc:close()
  t.status(p)
  p:close()
end

--- Ends a pool and waits for that.
function services.finish_pool(t, pool)
  t.got(pool:drain(10))
  pool:close()
  t.eq(pool:stats().workers, 0)
end

--- Starts n calls and gives the table of their answers, by number; n: how many have come.
function services.collect(service, n, ...)
  local answers = {n = 0}
  for i = 1, n do
    local args = table.pack(...)
    args[args.n + 1] = function(...)
      assert(not answers[i], "told twice")
      answers[i], answers.n = table.pack(...), answers.n + 1
    end
    service(table.unpack(args, 1, args.n + 1))
  end
  return answers
end

return services
