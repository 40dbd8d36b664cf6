-- moonfork for other Lua versions: LuaJIT and Lua 5.1 to 5.3 as parents (doc/other-lua.md).
-- Templates and clones are Lua 5.4 all the same. Runs in the parent.
--
--   ffi_process, ffi_service --> ffi_options, ffi_message --> ffi_check
--     |                 `--> ffi_reactor --> ffi_error
--     `--> ffi_core --> ffi_luajit, ffi_cdef: where there is an ffi --> libmoonfork
--                 `--> ffi51 ... ffi53, the C part                 -->
--
-- Both back ends are raw and alike (src/otherlua/otherlua.h): they know numbers only, a token for
-- each completion. So no C code ever refers to a Lua value, and nothing of Lua runs inside a
-- callback. In the syntax of every Lua.

-- Each file says this of itself: a compiled trace may take an object for garbage before a call that
-- was given it has returned.
if rawget(_G, "jit") then rawget(_G, "jit").off(true, true) end

local core = require "moonfork.ffi_core"
local check = require "moonfork.ffi_check"
local errors = require "moonfork.ffi_error"
local options = require "moonfork.ffi_options"
local process = require "moonfork.ffi_process"
local reactor = require "moonfork.ffi_reactor"
require "moonfork.ffi_service" -- process:rpc and process:pool

local fork = {
  _VERSION = "moonfork " .. core.version,
  loop = reactor.loop,
  step = reactor.step,
  on_error = reactor.on_error,
}
options.module = fork

-- A process forked from the default template, which is started on first use and kept.
function fork.new(given)
  return process.create("new", given)
end

-- A process in a newly executed interpreter.
function fork.new_exec(given)
  return process.create("new_exec", given)
end

-- ---- descriptors: a number is all that run gives, and these Luas can't read from one ----

-- As soon as there are some, up to n bytes (65536): a string; "" at the end. Or nil, err.
function fork.read(fd, n, timeout)
  check.fd(1, "read", fd)
  n = check.option_count({ f = "read", n = 2 }, "n", n, 1, 2 ^ 30) or 65536
  check.seconds(3, "read", timeout)
  return reactor.transfer(fd, "r", timeout, function() return core.read(fd, n) end)
end

-- Writes all: true; or nil, err.
function fork.write(fd, data, timeout)
  check.fd(1, "write", fd)
  check.type(2, "write", data, "string")
  check.seconds(3, "write", timeout)
  local at = 1
  while at <= #data do
    local n, err = reactor.transfer(fd, "w", timeout, function() return core.write(fd, data, at) end)
    if not n then return nil, err end
    at = at + n
  end
  return true
end

-- true; or nil, err.
function fork.close(fd)
  check.fd(1, "close", fd)
  local ok, code = core.close_fd(fd)
  if not ok then return nil, errors.of_code(code) end
  return true
end

-- ---- the end of the Lua state: after all objects, for it was made first ----

process.Process.all = reactor.guard(function()
  reactor.closing = true
  for raw, kind in pairs(process.raws) do
    if kind == "process" then
      core.close(raw)
    else
      core.abort(raw)
      core.finish_service(raw)
    end
  end
  core.shutdown()
end)

return fork
