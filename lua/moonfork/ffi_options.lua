-- Options of processes, rpcs and pools for moonfork.ffi: checked, and as plain values for the back
-- end. In the syntax of every Lua.

if rawget(_G, "jit") then rawget(_G, "jit").off(true, true) end -- see ffi.lua

local check = require "moonfork.ffi_check"
local errors = require "moonfork.ffi_error"
local message = require "moonfork.ffi_message"
local rules = require "moonfork.option_rules"

local options = {} -- module: moonfork.ffi itself, which is no table of options

-- ---- of processes ----

local COMMON = "env cwd stdin stdout stderr timeout session leash handles name dumpable tree"
local valid_process = {
  new = check.set(COMMON),
  fork = check.set(COMMON),
  new_exec = check.set(COMMON .. " program path cpath gc spares"),
}

local checked = rules.of(check)

local function environment(where, changes)
  local list, failure = {}, nil
  for name, value in pairs(check.option_type(where, "env", changes, "table")) do
    if type(name) ~= "string" or name == "" or name:find("=", 1, true) then
      check.option_fail(where, "env", "not the name of a variable: " .. check.show(name))
    end
    check.option_text(where, "env", name)
    if value == false then
      list[#list + 1] = name
    elseif type(value) == "number" then
      local text = message.number_text(value)
      failure = not text and errors.new("EINVAL",
        ("option 'env.%s': it is not a number (nan)"):format(name)) or failure
      list[#list + 1] = name .. "=" .. (text or "")
    elseif type(value) == "string" then
      list[#list + 1] = name .. "=" .. check.option_text(where, "env." .. name, value)
    else
      check.option_fail(where, "env." .. name, "string, number or false expected, got " .. check.type_name(value))
    end
  end
  table.sort(list)
  return list, failure
end

local function stream(where, plain, name, value)
  if rules.STREAMS[value] then
    plain[name] = rules.STREAMS[value]
  elseif check.is_fd(value) then
    plain[name], plain[name .. "_fd"] = rules.STREAM_IS_HANDLE, value
  else
    check.option_fail(where, name, "'inherit', 'null', 'socket' or a descriptor's number expected, got "
      .. (type(value) == "string" and "'" .. value .. "'" or check.type_name(value)))
  end
end

-- The plain options; then an error, if they can't be used.
function options.of_process(f, given)
  local where = { f = f, n = 1 }
  if given == options.module then
    check.fail(1, f, ("the module itself is no options table; use a dot: fork.%s(...)"):format(f))
  end
  if given ~= nil then check.type(1, f, given, "table") end
  given = given or {}
  check.keys(1, f, given, valid_process[f])
  local plain, failure = {}, nil
  for _, name in ipairs { "path", "cpath", "program", "cwd", "name" } do
    plain[name] = check.option_text(where, name, given[name])
  end
  local timeout = check.option_duration(where, "timeout", given.timeout)
  plain.timeout = timeout ~= check.FOREVER and timeout or nil
  for name, choices in pairs(rules.CHOICES) do
    if given[name] ~= nil then plain[name] = checked.choice(where, name, given[name], choices) end
  end
  for _, name in ipairs { "dumpable", "tree" } do plain[name] = check.option_choice(where, name, given[name]) end
  if given.spares ~= nil then checked.spares(where, plain, given.spares) end
  if given.env ~= nil then plain.env, failure = environment(where, given.env) end
  for _, name in ipairs { "stdin", "stdout", "stderr" } do
    if given[name] ~= nil then stream(where, plain, name, given[name]) end
  end
  return plain, failure
end

-- ---- of rpcs and pools ----

local RPC = "async init on_event on_error on_close serialiser timeout message_max grace"
local valid_service = {
  rpc = check.set(RPC .. " strict"),
  pool = check.set(RPC .. " " .. rules.POOL),
  with_rpc = check.set "timeout",
  with_pool = check.set "timeout idempotent",
}

local function option_name(where, name, value)
  if check.option_text(where, name, value) == "" then check.option_fail(where, name, "a name expected, got \"\"") end
  return value
end

function options.of_service(f, name, given)
  local where = { f = f, n = 2 }
  check.name(1, f, name)
  if name == "" then check.fail(1, f, "the name of a function expected") end
  if given ~= nil then check.type(2, f, given, "table") end
  given = given or {}
  check.keys(2, f, given, valid_service[f])
  if given.serialiser ~= nil and given.serialiser ~= "string" then
    check.option_fail(where, "serialiser", "'string' expected, the only one here, got "
      .. (type(given.serialiser) == "string" and ("'%s'"):format(given.serialiser)
        or check.type_name(given.serialiser)))
  end
  local plain = {
    serialiser = "string",
    async = check.option_flag(where, "async", given.async),
    strict = check.option_flag(where, "strict", given.strict),
    init = option_name(where, "init", given.init),
    timeout = check.option_duration(where, "timeout", given.timeout),
    message_max = check.option_count(where, "message_max", given.message_max, 16, 2 ^ 32),
    grace = check.option_duration(where, "grace", given.grace, true),
  }
  if plain.strict == 1 and plain.async == 1 then
    check.option_fail(where, "strict", "not with async: several calls are under way there, and each may have begun")
  end
  local service = {
    name = name,
    is_pool = f == "pool",
    on_event = check.option_callback(where, "on_event", given.on_event),
    on_error = check.option_callback(where, "on_error", given.on_error),
    on_close = check.option_callback(where, "on_close", given.on_close),
    on_worker = check.option_callback(where, "on_worker", given.on_worker),
  }
  if f == "pool" then checked.pool(where, given, plain) end
  return plain, service
end

-- Of pool:with and rpc:with.
function options.of_calls(is_pool, given)
  local where = { f = "with", n = 1 }
  check.type(1, "with", given, "table")
  check.keys(1, "with", given, valid_service[is_pool and "with_pool" or "with_rpc"])
  return {
    timeout = check.option_duration(where, "timeout", given.timeout),
    idempotent = check.option_flag(where, "idempotent", given.idempotent) == 1,
  }
end

return options
