-- moonfork.pseudo: fork() of the running interpreter inside its process. The first line of a
-- program requires it. There and then the script begins anew in an interpreter of its own, whose
-- memory can be copied; the one that was started waits for its end, and ends the process. In the
-- new one this file is loaded again, and what require gives are the functions.

local core = require "moonfork.pseudo_core"
local VERSION = "0.1.0"

if core.version ~= VERSION then
  error(("moonfork.pseudo: this file is of moonfork %s, and moonfork.pseudo_core is of moonfork %s; both"
    .. " have to be of one version: correct package.path (LUA_PATH) or package.cpath (LUA_CPATH)"):format(VERSION,
    core.version), 0)
end

local Error = {__name = "moonfork.error"}
Error.__index = Error
function Error:__tostring() return self.message end
function Error.__concat(a, b)
  return (getmetatable(a) == Error and a.message or a) .. (getmetatable(b) == Error and b.message or b)
end
local function failure(code, message)
  return setmetatable({code = code, message = message}, Error)
end

-- ---- in the interpreter that was started ----

-- Whether only comments and blanks stand before a line.
local function is_first(script, line)
  local file = io.open(script, "rb")
  if not file then return true end
  local text = {}
  for _ = 1, line - 1 do text[#text + 1] = file:read "L" end
  file:close()
  local s = table.concat(text):gsub("^#[^\n]*", "")
  while true do
    local from = s:match "^%s*()"
    s = s:sub(from)
    local level = s:match "^%-%-%[(=*)%["
    local rest = level and s:match("^.-%]" .. level .. "%](.*)") or s:match "^%-%-[^\n]*(.*)"
    if not rest then return s == "" end
    s = rest
  end
end

local function is_precompiled(script)
  local file = io.open(script, "rb")
  if not file then return false end
  local line = file:read "L" or ""
  if line:sub(1, 1) == "#" then line = file:read "L" or "" end
  file:close()
  return line:sub(1, 1) == "\27"
end

-- The line of the script that is running, and whether it is its main chunk that requires this.
local function caller_of(script)
  for level = 2, 20 do
    local info = debug.getinfo(level, "Slf")
    if not info then return end
    if info.what == "main" and info.source == "@" .. script then return info.currentline end
    if info.what ~= "C" and info.source:sub(1, 1) == "@" and not info.source:find "moonfork/pseudo%.lua$" then
      return
    end
  end
end

local function begin()
  local arguments = rawget(_G, "arg")
  local script, options = type(arguments) == "table" and arguments[0], {}
  local function refuse(why)
    error("moonfork.pseudo: " .. why .. "; it has to be the first line of a script that lua5.4 runs from a file", 0)
  end
  if type(script) ~= "string" then refuse "this interpreter was not started with a script" end
  if script == "-" then refuse "the script comes from standard input, where it can't be read again" end
  local first = 0
  while arguments[first - 1] ~= nil do first = first - 1 end
  if first == 0 then refuse "there is no script" end
  for i = first + 1, -1 do
    local word = arguments[i]
    if word ~= "-W" and word ~= "-E" and word ~= "--" then options[#options + 1] = word end
  end
  if options[1] then
    refuse(("the interpreter was started with %s, which would be lost"):format(table.concat(options, " ")))
  end
  if is_precompiled(script) then
    refuse(("%s is precompiled (luac), and what stands before it there can't be seen; run its source"):format(script))
  end
  local line = caller_of(script)
  if not line then refuse "it is required by another file, or in a function" end
  if not is_first(script, line) then
    refuse(("something stands before it in %s (line %d), which would happen twice"):format(script, line))
  end
  if core.reason then
    error(failure("UNSUPPORTED", "moonfork.pseudo can't be used here: " .. core.reason), 0)
  end
  io.stdout:flush()
  error("moonfork.pseudo: " .. core.run(arguments, package.path, package.cpath, script, arguments[first]), 0)
end

if core.run then begin() end

-- ---- in a pseudo-process ----

local pseudo = {_VERSION = "moonfork " .. VERSION}
local seed = math.randomseed

-- The driver's, in a copy before it goes on.
function core.born(a, b)
  seed(a, b)
end

-- Where an object is, as a person would write it: the shortest way there from what is loaded.
function core.path(object)
  local function name_of(key)
    if type(key) == "string" and key:match "^[%a_][%w_]*$" then return "." .. key end
    return ("[%s]"):format(type(key) == "string" and ("%q"):format(key) or tostring(key))
  end
  local seen, from, queue = {}, {}, {}
  local function reach(value, path)
    local kind = type(value)
    if kind ~= "table" and kind ~= "function" and kind ~= "userdata" and kind ~= "thread" or seen[value] then
      return
    end
    seen[value] = true
    queue[#queue + 1], from[#queue + 1] = value, path
  end
  reach(_G, "_G")
  reach(package.loaded, "package.loaded")
  seen[coroutine.running()] = true -- which runs this
  reach(debug.getregistry(), "registry")
  local i = 1
  local found
  while queue[i] and not found and i < 1000000 do
    local value, path = queue[i], from[i]
    if value == object then found = path end
    local metatable = debug.getmetatable(value)
    if metatable then reach(metatable, path .. "'s metatable") end
    if type(value) == "table" then
      for k, v in next, value do
        reach(v, (path == "_G" and type(k) == "string" and k:match "^[%a_][%w_]*$") or path .. name_of(k))
        reach(k, "a key of " .. path)
      end
    elseif type(value) == "function" then
      local n = 1
      while true do
        local name, v = debug.getupvalue(value, n)
        if not name then break end
        reach(v, ("%s's upvalue %s"):format(path, name ~= "" and name or n))
        n = n + 1
      end
    elseif type(value) == "thread" then
      for level = 0, 100 do
        if not debug.getinfo(value, level, "l") then break end
        for n = 1, 250 do
          local name, v = debug.getlocal(value, level, n)
          if not name then break end
          reach(v, ("the variable %s"):format(name))
        end
      end
    else
      for n = 1, 250 do
        local v, there = debug.getuservalue(value, n)
        if not there then break end
        reach(v, ("%s's user value %d"):format(path, n))
      end
    end
    i = i + 1
  end
  local name = (debug.getmetatable(object) or {}).__name
  return ("the userdata%s%s"):format(type(name) == "string" and " of type " .. name or "",
    found and (" (" .. found .. ")") or "")
end

local function whole(value, function_name, n, what)
  local number = math.tointeger(value)
  if not number or type(value) == "string" then
    error(("bad argument #%d to '%s' (%s expected, got %s)"):format(n, function_name, what,
      value == nil and "no value" or type(value) == "number" and "a number with a fraction" or type(value)), 3)
  end
  return number
end

local function text(value, function_name, n, may_be_nil)
  if type(value) == "string" and not value:find("\0", 1, true) or may_be_nil and value == nil then return value end
  error(("bad argument #%d to '%s' (string%s expected, got %s)"):format(n, function_name,
    type(value) == "string" and " without zeros" or "", type(value) == "string" and "one with zeros" or
    value == nil and "no value" or type(value)), 3)
end

local function checked(ok, message, errno)
  if ok and message then return ok, message end -- two files
  if ok then return ok end
  return nil, setmetatable({code = "EINVAL", message = message, errno = errno}, Error)
end

-- A copy of the whole interpreter goes on from here as well: 0 in the copy, its number in the
-- caller; nil, err where it can't be.
function pseudo.fork()
  local pid, message = core.fork()
  if pid then return pid end
  return nil, failure("FORK_FAILED", message)
end

local function waited(pid, code, signal)
  if pid then return pid, code, signal end
  return nil, failure("EINVAL", "there is no such child to wait for")
end

-- Waits for any child to end: pid, code, signal (one of the two is nil); nil, err: there is none.
function pseudo.wait()
  return waited(core.wait(-1, true))
end

-- The same for this one; nohang: 0 at once while it runs.
function pseudo.waitpid(pid, nohang)
  pid = whole(pid, "waitpid", 1, "a process's number")
  if pid < 1 and pid ~= -1 then
    error(("bad argument #1 to 'waitpid' (a process's number or -1 expected, got %d)"):format(pid), 2)
  end
  return waited(core.wait(pid, not nohang))
end

-- Ends this process with this exit code (0). Nothing of it runs any more.
function pseudo.exit(code)
  if code == nil then code = 0 end
  core.exit(whole(code, "exit", 1, "an exit code"), false)
end

function pseudo.getpid() return core.getpid() end

-- 0: the parent has ended, or this is the first process.
function pseudo.getppid() return core.getppid() end

local SIGNALS = {[0] = 0, [9] = 9, [15] = 15, KILL = 9, TERM = 15, SIGKILL = 9, SIGTERM = 15}

-- Ends a process at the next safe point of its code: between two instructions of Lua, or when it
-- is called back from C. KILL and TERM do the same; 0 asks whether it is there.
function pseudo.kill(pid, signal)
  pid = whole(pid, "kill", 1, "a process's number")
  if type(signal) ~= "string" and math.type(signal) == nil then
    error(("bad argument #2 to 'kill' (a signal expected, got %s)"):format(signal == nil and "no value" or
      type(signal)), 2)
  end
  local number = SIGNALS[signal]
  if not number then
    return nil, failure("UNSUPPORTED", ("signal %s can't be sent to a pseudo-process: there are KILL and TERM")
      :format(signal))
  end
  if pid >= 1 and core.kill(pid, number) then return true end
  return nil, failure("EINVAL", ("there is no process %d"):format(pid))
end

-- The environment of this process, and of what it starts.
function pseudo.getenv(name)
  return core.getenv(text(name, "getenv", 1))
end
function pseudo.setenv(name, value)
  text(name, "setenv", 1)
  text(value, "setenv", 2, true)
  if name == "" or name:find("=", 1, true) then
    error("bad argument #1 to 'setenv' (a name is not empty and has no '=')", 2)
  end
  if core.setenv(name, value) then return true end
  return nil, failure("NOMEM", "out of memory")
end

function pseudo.chdir(path) return checked(core.chdir(text(path, "chdir", 1))) end
function pseudo.getcwd() return checked(core.getcwd()) end

-- The mask for modes of new files: gives the one before; without an argument nothing changes.
function pseudo.umask(mask)
  if mask ~= nil then
    mask = whole(mask, "umask", 1, "a mask")
    if mask < 0 or mask > 511 then error("bad argument #1 to 'umask' (0 to 0777 expected)", 2) end
  end
  return core.umask(mask)
end

-- Two files: what is written to the second can be read from the first.
function pseudo.pipe()
  local reads, writes, errno = core.pipe()
  if reads then return reads, writes end
  return nil, setmetatable({code = "LIMIT", message = "pipe: " .. writes, errno = errno}, Error)
end

os.getenv = pseudo.getenv -- luacheck: ignore 122
function os.exit(code, close) -- luacheck: ignore 122
  if code == nil or code == true then code = 0 elseif code == false then code = 1 end
  core.exit(whole(code, "exit", 1, "an exit code"), close)
end

return pseudo
