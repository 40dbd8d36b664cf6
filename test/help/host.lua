-- host: a parent of its own, for stories about what happens to a parent. Runs in the test's
-- process; the host is another interpreter that it starts and watches.
--
--   local h <close> = host.start(t, [[ print("ready") ... ]], {before = {"setpriv", ...}})
--   local pid = h:says("pid (%d+)")        waits for a line, returns its captures
--   h:kill(9)                              a signal to the process that was started
--   local how, number = h:ends(5)          "exit" or "signal", and which
--   h.pid, h:out(), h:err()
--
-- The source finds `fork`, `kit`, `fkit` and `pid_of(process)` as locals; its output comes
-- line by line.
-- Left alone by `before`, h.pid is the interpreter. The host is killed and reaped when h is
-- closed, so a failing story leaves nothing behind.
local fkit = require "faultkit"
local kit = require "testkit"
local story = require "story"

local host = {}
host.__index = host

local prelude = [[
io.stdout:setvbuf("line")
local fork, kit, fkit = require "moonfork", require "testkit", require "faultkit"
local function pid_of(process)
  while not process:pid() do fork.step(0.01) end
  return process:pid()
end
local _ = fkit, pid_of
]]

local started = 0

local function open(path, mode)
  return assert(kit.open(path, mode))
end

--- Options: before (words in front of the interpreter), script (arguments behind it),
--- prelude (false: none), stdin (a handle).
function host.start(t, source, options)
  options = options or {}
  started = started + 1
  local name = "host" .. started
  kit.chmod(t:tmp(), tonumber("755", 8)) -- for hosts of other users
  local self = setmetatable({t = t, outfile = t:file(name .. ".out", ""),
    errfile = t:file(name .. ".err", "")}, host)
  if options.prelude ~= false then source = prelude .. source end
  local argv = table.move(options.before or {}, 1, #(options.before or {}), 1, {})
  argv[#argv + 1] = os.getenv("LUA") or "lua5.4"
  argv[#argv + 1] = t:file(name .. ".lua", source)
  for _, word in ipairs(options.script or {}) do argv[#argv + 1] = word end
  local out, err = open(self.outfile, "w"), open(self.errfile, "w")
  self.pid = assert(fkit.spawn(argv, {[0] = options.stdin, [1] = out, [2] = err}))
  kit.close(out)
  kit.close(err)
  return self
end

function host:out()
  return self.t.read(self.outfile) or ""
end

function host:err()
  return self.t.read(self.errfile) or ""
end

function host:poll()
  if self.how then return self.how, self.number end
  local pid, how, number = kit.waitpid(self.pid, true)
  if pid ~= self.pid then return nil end
  self.how, self.number = how, number
  return how, number
end

--- Waits until the output has a match, and returns its captures.
function host:says(pattern, seconds)
  local found
  local ok = pcall(self.t.outside, seconds or 10, function()
    local ended = self:poll()
    found = table.pack(self:out():match(pattern))
    return found[1] or ended
  end)
  if ok and found[1] then return table.unpack(found, 1, found.n) end
  self.t.fail("the host did not say %q (%s %s); it said:\n%s%s", pattern,
    tostring(self.how), tostring(self.number), self:out(), self:err())
end

function host:kill(signum)
  if self.how then return nil, "it has ended" end
  return kit.kill(self.pid, signum)
end

--- Waits for its end.
function host:ends(seconds)
  local ok = pcall(self.t.outside, seconds or 10, function() return self:poll() end)
  if ok then return self.how, self.number end
  self.t.fail("the host does not end; it said:\n%s%s", self:out(), self:err())
end

--- It ended by itself and with success; anything else is shown with what it said.
function host:succeeds(seconds)
  local how, number = self:ends(seconds)
  if how == "exit" and number == 0 then return end
  self.t.fail("the host ended by %s %d; it said:\n%s%s", how, number, self:out(), self:err())
end

function host:close()
  if not self:poll() then
    kit.kill(self.pid, kit.SIGCONT)
    kit.kill(self.pid, kit.SIGKILL)
    local _, how, number = kit.waitpid(self.pid)
    self.how, self.number = how, number
  end
end

host.__close = host.close
host.__gc = host.close

--- Whether this machine lets us trace processes.
function host.can_trace()
  if host.traces == nil then
    local ok = os.execute("strace -f -qq -o /dev/null true >/dev/null 2>&1 </dev/null")
    host.traces = ok == true
  end
  return host.traces
end

--- A file of the build folder's test/fault, or the story is skipped.
function host.tool(t, name)
  local build = os.getenv("MOONFORK_BUILD") or ""
  local path = build .. "/test/fault/" .. name
  local f = io.open(path, "rb")
  if not f then t.skip("needs " .. name .. " in the build folder") end
  f:close()
  return path
end

--- A template program whose system calls a preloaded library sees: that of the build makes
--- them itself.
function host.plain_template(t)
  return host.tool(t, "moonfork-template-plain")
end

host.nightly = (os.getenv("FAULT_NIGHTLY") or "") ~= ""

--- A number of rounds: few, or in the nightly mode (FAULT_NIGHTLY=1) many.
function host.rounds(few, many)
  return host.nightly and many or few
end

host.scale = story.scale

return host
