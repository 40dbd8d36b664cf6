-- The measurement `nats` of run.lua: calls from Lua over a nats-server to a node, by turns with an echo
-- in C that has libnats alone, over the same server. kit: what run.lua has for it.
local kit = ...
local here, programs, process = kit.here, kit.programs, kit.process
local say, number = kit.say, kit.number

local function free_port()
  local listener = assert(require "moonfork".socket.listen "127.0.0.1:0")
  local port = listener:address():match ":(%d+)$"
  listener:close()
  return port
end

local function is_missing()
  if process.capture "command -v nats-server" == "" then return "nats-server" end
  if not process.succeeds(("test -x '%s/nats_echo'"):format(programs)) then return "libnats" end
end

-- Waits until the server listens.
local function wait_for(port)
  for _ = 1, 200 do
    local socket = require "moonfork".socket.connect("127.0.0.1:" .. port)
    if socket then return socket:close() end
    require "moonfork".sleep(0.05)
  end
  error "the nats-server does not listen"
end

return function()
  local missing = is_missing()
  say("")
  say("## Over NATS")
  say("")
  if missing then return say("Left out: there is no %s.", missing) end
  local scale = kit.quick and 0.2 or 1
  local port = free_port()
  local url = "nats://127.0.0.1:" .. port
  local servers = {process.serve(("exec nats-server -a 127.0.0.1 -p %s"):format(port))}
  wait_for(port)
  servers[2] = process.serve(("exec '%s/nats_echo' serve %s raw"):format(programs, url))
  servers[3] = process.serve(("exec lua5.4 %s/nats.lua serve %s lua 1"):format(here, url))
  local work = {
    {"one", "one at a time", 0.5, math.floor(10000 * scale), 1, 64},
    {"many", "64 in flight", 0.25, math.floor(100000 * scale), 64, 64},
    {"big", "1,000,000 bytes, one at a time", nil, math.floor(300 * scale), 1, 1000000},
  }
  local cells = {}
  for _, w in ipairs(work) do
    local words = table.concat(w, " ", 4)
    cells[#cells + 1] = {key = w[1] .. "raw", label = w[2],
      command = ("%s/nats_echo call %s raw %s"):format(programs, url, words)}
    cells[#cells + 1] = {key = w[1] .. "lua", label = w[2],
      command = ("lua5.4 %s/nats.lua call %s lua %s"):format(here, url, words)}
    cells[#cells + 1] = {key = w[1] .. "local", label = w[2],
      command = ("lua5.4 %s/nats.lua local %s 1"):format(here, words)}
  end
  servers[4] = process.serve(("exec lua5.4 %s/nats.lua serve %s two 2"):format(here, url))
  local items = math.floor(100000 * scale)
  for _, m in ipairs{{"map1", "map two", "1"}, {"mapauto", "map two", "auto"}, {"maplocal", "maplocal", "auto"}} do
    cells[#cells + 1] = {key = m[1], label = m[1], command = ("lua5.4 %s/nats.lua %s %d %s 64%s"):format(here,
      m[2]:gsub(" ", " " .. url .. " "), items, m[3], m[2] == "maplocal" and " 2" or "")}
  end
  cells = kit.take_turns("nats", cells)
  for _, server in ipairs(servers) do server:stop() end
  for _, x in ipairs(cells) do
    for round, f in pairs(x.figures) do x.rates[round] = f.calls / f.seconds end
  end
  say("One node with one worker. \"Raw\" is an echo in C with libnats alone; what is called here is a pool " ..
      "with one worker in the program itself.")
  say("")
  say("| calls of 64 bytes | raw, per second | moonfork.nats, per second | x raw | a pool here, per second |")
  say("| --- | ---: | ---: | ---: | ---: |")
  for _, w in ipairs(work) do
    local raw, lua = kit.find(cells, w[1] .. "raw"), kit.find(cells, w[1] .. "lua")
    local near = kit.find(cells, w[1] .. "local")
    local x = raw and lua and kit.ratio(lua, raw, "rates") or 0 / 0
    if raw and lua and near then
      say("| %s | %.0f | %.0f | %s | %.0f |", w[2], kit.median(raw.rates), kit.median(lua.rates),
          number(x, "%.2f"), kit.median(near.rates))
    end
    if w[3] then kit.goal("nats: calls, " .. w[2] .. ", x raw", "least", w[3], x, "%.2f") end
  end
  local alone, auto, near = kit.find(cells, "map1"), kit.find(cells, "mapauto"), kit.find(cells, "maplocal")
  if alone and auto and near then
    say("")
    say("`map` of %d items of 64 bytes over one node with two workers: %.0f items per second one by one, %.0f in " ..
        "chunks; %.0f by a pool of two workers here.", items, kit.median(alone.rates), kit.median(auto.rates),
        kit.median(near.rates))
  end
end
