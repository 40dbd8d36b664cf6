-- actor: what stories let clones do. Runs in templates and clones (story.lua in the parent
-- uses pack and unpack as well). Answers travel as Lua text, so that a test compares
-- values and not their prints.
local actor = {}

local function literal(value, depth)
  if type(value) ~= "table" then
    local kind = type(value)
    if kind == "nil" or kind == "boolean" or kind == "number" or kind == "string" then
      return string.format("%q", value)
    end
    return string.format("%q", tostring(value))
  end
  if depth > 20 then return "'too deep'" end
  local out = {}
  for k, v in pairs(value) do
    out[#out + 1] = "[" .. literal(k, depth + 1) .. "]=" .. literal(v, depth + 1)
  end
  return "{" .. table.concat(out, ",") .. "}"
end

--- Values as Lua text; what has no literal becomes its tostring.
function actor.pack(...)
  local out = {}
  for i = 1, select("#", ...) do out[i] = literal((select(i, ...)), 1) end
  return table.concat(out, ",")
end

function actor.unpack(text)
  return assert(load("return " .. text, "=answer", "t", {}))()
end

--- Calls f(socket, ...) and writes its results, or its error, to the socket. The answer is
--- closed by shutdown, so a reader gets all of it whatever else holds the socket.
function actor.answer(socket, f, ...)
  local results = table.pack(xpcall(f, debug.traceback, socket, ...))
  if results[1] then
    results[1] = "ok"
    socket:write(actor.pack(table.unpack(results, 1, results.n)))
  else
    socket:write(actor.pack(nil, results[2]))
  end
  socket:shutdown("w")
end

--- Stays until the parent closes the socket.
function actor.hold(socket)
  socket:read("a")
end

--- Says its pid, then stays until the parent closes the socket.
function actor.hello(socket)
  socket:write(require("testkit").getpid(), "\n")
  socket:read("a")
end

--- Writes back each line.
function actor.echo(socket)
  for line in socket:lines("L") do socket:write(line) end
end

--- What it was given: strings as they are, handles as "handle".
function actor.given(socket, ...)
  local out = table.pack(...)
  for i = 1, out.n do
    if type(out[i]) ~= "string" then out[i] = "handle" end
  end
  socket:write(actor.pack(table.unpack(out, 1, out.n)))
end

function actor.fail()
  error("the actor failed on purpose")
end

--- Numbered lines "name: hex" of /proc/self/status, e.g. SigBlk, as integers.
function actor.status_bits(name, pid)
  for line in io.lines("/proc/" .. (pid or "self") .. "/status") do
    local hex = line:match("^" .. name .. ":%s*(%x+)")
    if hex then return tonumber(hex, 16) end
  end
end

--- The descriptors above 2 and what they lead to, and which of them are close-on-exec.
function actor.descriptors()
  local kit = require "testkit"
  local out = {}
  for fd, target in pairs(kit.fds()) do
    if fd > 2 then
      out[#out + 1] = {fd = fd, target = target, cloexec = kit.cloexec(fd)}
    end
  end
  table.sort(out, function(a, b) return a.fd < b.fd end)
  return out
end

return actor
