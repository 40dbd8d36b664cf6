-- Errors of moonfork.ffi, as the program gets them. In the syntax of every Lua.

if rawget(_G, "jit") then rawget(_G, "jit").off(true, true) end -- see ffi.lua

local core = require "moonfork.ffi_core"
local check = require "moonfork.ffi_check"

local errors = {}

local Error = { __name = "moonfork.error" }

function Error.__tostring(err)
  if not err.traceback then return tostring(err.message) end
  return tostring(err.message) .. "\n" .. err.traceback
end

local function message_of(value)
  return getmetatable(value) == Error and value.message or value
end

function Error.__concat(a, b)
  return message_of(a) .. message_of(b)
end

-- Codes that the system's own errors have in Lua; all others are EINVAL. By name, for numbers
-- differ between systems.
local SYSTEM = { EMFILE = "LIMIT", ENFILE = "LIMIT", E2BIG = "LIMIT", EAGAIN = "LIMIT",
  ENOBUFS = "LIMIT", ENOMEM = "NOMEM", ENOSYS = "UNSUPPORTED" }
local NAMES = check.set("REMOTE CLONE_DIED TEMPLATE_START TEMPLATE_DIED FORK_FAILED TIMEOUT CANCELLED "
  .. "CLOSED LIMIT PROTOCOL NOMEM UNSUPPORTED")

function errors.name(code)
  local name = core.error_name(code)
  return NAMES[name] and name or SYSTEM[name] or "EINVAL"
end

function errors.new(code, message, started)
  return setmetatable({ code = code, message = message, started = started or "no" }, Error)
end

function errors.of_code(code)
  return errors.new(errors.name(code), core.error_text(code))
end

-- From the table of a completion.
function errors.of_raw(raw)
  if not raw then return nil end
  raw.code = errors.name(raw.code)
  raw.started = raw.started == 0 and "no" or "unknown"
  return setmetatable(raw, Error)
end

return errors
