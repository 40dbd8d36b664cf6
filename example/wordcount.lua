-- wordcount.lua: counts words in parallel. The files are dealt to as many clones as there
-- are processors; each counts its share and writes its table down its socket; the parent
-- adds up. Run it with `example/run wordcount [FILE...]`; by default it reads the licence
-- texts of the system.

local fork = require "moonfork"

local COUNT = [[
  function count(socket, ...)
    local counts = {}
    for _, path in ipairs { ... } do
      for line in io.lines(path) do
        for word in line:lower():gmatch("%a+") do
          counts[word] = (counts[word] or 0) + 1
        end
      end
    end
    for word, n in pairs(counts) do socket:write(word, " ", tostring(n), "\n") end
    socket:flush()
  end
]]

local function licence_texts()
  local pipe = assert(io.popen("find /usr/share/common-licenses -type f", "r"))
  local list = {}
  for path in pipe:lines() do list[#list + 1] = path end
  pipe:close()
  return #list > 0 and list or { arg[0] }
end

local files = #arg > 0 and arg or licence_texts()
local nworkers = math.min(fork.ncpu(), #files)
local template = fork.new():eval(COUNT)

local sockets = {}
for i = 1, nworkers do
  local share = {}
  for j = i, #files, nworkers do share[#share + 1] = files[j] end
  template:fork():send_arg(table.unpack(share)):run("count", function(err, socket)
    if err then error(err) end
    sockets[#sockets + 1] = socket
  end)
end
fork.loop() -- all of them are at work now

local totals, nwords = {}, 0
for _, socket in ipairs(sockets) do
  for line in socket:lines() do
    local word, n = line:match("^(%a+) (%d+)$")
    totals[word] = (totals[word] or 0) + tonumber(n)
    nwords = nwords + tonumber(n)
  end
  socket:close()
end
template:close()

local words = {}
for word in pairs(totals) do words[#words + 1] = word end
table.sort(words, function(a, b)
  if totals[a] ~= totals[b] then return totals[a] > totals[b] end
  return a < b
end)
print(("%d words, %d different, in %d files, by %d processes"):format(
  nwords, #words, #files, nworkers))
for i = 1, math.min(5, #words) do print(("%7d %s"):format(totals[words[i]], words[i])) end
