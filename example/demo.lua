-- demo.lua: what `./dev demo` shows. The licence texts of the system are read once, by a
-- template, which indexes their words. Then
--
--   * a pre-forked TCP server: clones of the template accept on one port and answer how often
--     a word occurs; other clones are the clients, thousands of connections through the
--     kernel's own TCP, each answer checked;
--   * a parallel word count: the texts are dealt to clones, which count from the files.
--
-- Every number it prints is measured in this run. It ends with 1 if an answer was wrong.

local fork = require "moonfork"

local function say(...) print(string.format(...)) end

-- Seconds with a fine resolution, which plain Lua lacks; asking costs a millisecond or two.
local function clock()
  local pipe = assert(io.popen("date +%s%N", "r"))
  local ns = tonumber(pipe:read("l"))
  pipe:close()
  return (ns or os.time() * 1000000000) / 1e9
end

local function mib(nbytes) return nbytes / 1048576 end

local function plural(n, word) return ("%d %s%s"):format(n, word, n == 1 and "" or "s") end

local function licence_texts()
  local pipe = assert(io.popen("find /usr/share/common-licenses -type f | sort", "r"))
  local list = {}
  for path in pipe:lines() do list[#list + 1] = path end
  pipe:close()
  return #list > 0 and list or { arg[0] }
end

local files = licence_texts()
local nprocessors = fork.ncpu()

-- ---- what the processes run ----

-- counts(files) -> { word = n }: used by the server's template and by the counting clones.
local COUNT = [[
  function counts(...)
    local counted = {}
    for _, path in ipairs { ... } do
      for line in io.lines(path) do
        for word in line:lower():gmatch("%a+") do
          counted[word] = (counted[word] or 0) + 1
        end
      end
    end
    return counted
  end

  function count(socket, ...)
    local lines = {}
    for word, n in pairs(counts(...)) do lines[#lines + 1] = word .. " " .. n .. "\n" end
    socket:write(table.concat(lines))
  end
]]

local SERVER = [[
  index = counts(...)

  function serve(socket, listener)
    while true do
      local connection <close> = assert(listener:accept())
      local word = connection:read("l")
      if word then connection:write(tostring(index[word] or 0), "\n") end
    end
  end

  function ready(socket) end
]]

-- A client is told the address and then, line by line, words and what it has to hear.
local CLIENT = [[
  local fork = require "moonfork"

  function ask(socket, address, nrequests)
    local questions = {}
    for line in socket:lines() do questions[#questions + 1] = { line:match("(%a+) (%d+)") } end
    local nright = 0
    for i = 1, tonumber(nrequests) do
      local word, expected = table.unpack(questions[i % #questions + 1])
      local connection = assert(fork.socket.connect(address))
      connection:write(word, "\n")
      if connection:read("l") == expected then nright = nright + 1 end
      connection:close()
    end
    socket:write(tostring(nright), "\n")
  end
]]

-- ---- the pre-forked server ----

-- The mean time from fork to the entered function, clones made one after the other.
local function time_to_ready(template, n)
  local start = clock()
  for _ = 1, n do assert(template:fork():run("ready")):close() end
  return (clock() - start) / n
end

local function start_servers(template, n)
  local servers = {}
  for i = 1, n do
    servers[i] = template:fork()
    assert(servers[i]:run("serve"))
  end
  return servers
end

-- Clients ask at the same time; gives how many answers were right.
local function ask(address, expected, nclients, nrequests)
  local template = fork.new():eval(CLIENT)
  local questions = {}
  for word, n in pairs(expected) do
    if #questions < 500 then questions[#questions + 1] = word .. " " .. n .. "\n" end
  end
  local sockets, nright = {}, 0
  for i = 1, nclients do
    sockets[i] = assert(template:fork():send_arg(address, nrequests):run("ask"))
  end
  for _, socket in ipairs(sockets) do
    socket:write(table.concat(questions))
    socket:shutdown("write")
  end
  for _, socket in ipairs(sockets) do
    nright = nright + tonumber(socket:read("l") or 0)
    socket:close()
  end
  template:close()
  return nright
end

local function show_server(expected)
  local NREQUESTS = 1000
  local listener = assert(fork.socket.listen("127.0.0.1:0"))
  local address = assert(listener:address())
  local template = fork.new():eval(COUNT):eval(SERVER, table.unpack(files))
  local ready = time_to_ready(template, 200)
  template:send_fd(listener)
  local servers = start_servers(template, 2 * nprocessors)
  listener:close()

  say("A pre-forked server on %s", address)
  say("  the template has indexed %s; %s of it accept connections",
    plural(#files, "text"), plural(#servers, "clone"))
  say("  a clone was ready %.2f ms after it was asked for (mean of 200)", ready * 1000)

  local nclients = 2 * nprocessors
  local start = clock()
  local nright = ask(address, expected, nclients, NREQUESTS)
  local seconds = clock() - start
  say("  %d of %d answers were right: %s, %.0f connections a second",
    nright, nclients * NREQUESTS, plural(nclients, "client"), nclients * NREQUESTS / seconds)

  local memory = assert(servers[1]:memory())
  say("  having served, a clone has %.2f MiB of its own and shares %.2f MiB",
    mib(memory.uss), mib(memory.rss - memory.uss))

  for _, server in ipairs(servers) do server:kill("TERM") end
  for _, server in ipairs(servers) do assert(server:wait(10)) end
  template:close()
  return nright == nclients * NREQUESTS
end

-- ---- the parallel word count ----

local NROUNDS = 40 -- each text is counted so often, or there would be nothing to see

-- One clone per share of the work; gives { word = n } and the seconds it took.
local function count_with(template, nworkers)
  local start = clock()
  local totals, sockets = {}, {}
  for i = 1, nworkers do
    local share = {}
    for j = i, NROUNDS * #files, nworkers do share[#share + 1] = files[j % #files + 1] end
    template:fork():send_arg(table.unpack(share)):run("count", function(err, socket)
      if err then error(err) end
      sockets[#sockets + 1] = socket
    end)
  end
  fork.loop()
  for _, socket in ipairs(sockets) do
    for word, n in socket:read("a"):gmatch("(%a+) (%d+)") do
      totals[word] = (totals[word] or 0) + tonumber(n)
    end
    socket:close()
  end
  for word, n in pairs(totals) do totals[word] = n // NROUNDS end
  return totals, clock() - start
end

local function show_wordcount()
  local template = fork.new():eval(COUNT)
  count_with(template, 1) -- so that nobody's files are cold
  local alone, seconds_alone = count_with(template, 1)
  local nworkers = math.min(nprocessors, #files)
  local totals, seconds = count_with(template, nworkers)
  template:close()

  local words, nwords, same = {}, 0, true
  for word, n in pairs(totals) do
    words[#words + 1] = word
    nwords = nwords + n
    same = same and alone[word] == n
  end
  for word in pairs(alone) do same = same and totals[word] ~= nil end
  table.sort(words, function(a, b) return totals[a] > totals[b] end)

  say("A parallel word count")
  say("  %d words, %d different, in %s, each counted %d times", nwords, #words,
    plural(#files, "licence text"), NROUNDS)
  say("  %.0f ms with %s, %.0f ms with one, and the %s counts", seconds * 1000,
    plural(nworkers, "clone"), seconds_alone * 1000, same and "same" or "DIFFERENT")
  local top = {}
  for i = 1, math.min(6, #words) do top[i] = words[i] .. " " .. totals[words[i]] end
  say("  most frequent: %s", table.concat(top, ", "))
  return totals, same
end

local expected, same = show_wordcount()
local right = show_server(expected)
os.exit(right and same)
