-- Options of processes, rpcs and pools for moonfork.ffi: checked, and as plain values for the back
-- end. In the syntax of every Lua.

if rawget(_G, "jit") then rawget(_G, "jit").off(true, true) end -- see ffi.lua

local check = require "moonfork.ffi_check"
local errors = require "moonfork.ffi_error"
local message = require "moonfork.ffi_message"

local options = {} -- module: moonfork.ffi itself, which is no table of options

-- ---- of processes ----

local COMMON = "env cwd stdin stdout stderr timeout session leash handles name dumpable tree"
local valid_process = {
  new = check.set(COMMON),
  fork = check.set(COMMON),
  new_exec = check.set(COMMON .. " program path cpath gc spares"),
}

local choices = { -- the numbers are those of moonfork.h
  session = { inherit = 0, new = 1 },
  leash = { kill = 0, term = 1, keep = 2 },
  handles = { inherit = 0, close = 1 },
  gc = { generational = 0, incremental = 1, stop = 2 },
}
local STREAMS = { inherit = 0, null = 1, socket = 2 }
local STREAM_IS_FD, YES, NO = 3, 1, 2

local function choice(where, name, value)
  if choices[name][value] then return choices[name][value] end
  local names = {}
  for known in pairs(choices[name]) do names[#names + 1] = ("'%s'"):format(known) end
  table.sort(names)
  check.bad(where, name, ("one of %s expected, got %s"):format(table.concat(names, ", "),
    type(value) == "string" and ("'%s'"):format(value) or check.type_name(value)))
end

local function environment(where, changes)
  local list, failure = {}, nil
  for name, value in pairs(check.option_type(where, "env", changes, "table")) do
    if type(name) ~= "string" or name == "" or name:find("=", 1, true) then
      check.bad(where, "env", "not the name of a variable: " .. check.show(name))
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
      check.bad(where, "env." .. name, "string, number or false expected, got " .. check.type_name(value))
    end
  end
  table.sort(list)
  return list, failure
end

local function stream(where, plain, name, value)
  if STREAMS[value] then
    plain[name] = STREAMS[value]
  elseif check.is_fd(value) then
    plain[name], plain[name .. "_fd"] = STREAM_IS_FD, value
  else
    check.bad(where, name, "'inherit', 'null', 'socket' or a descriptor's number expected, got "
      .. (type(value) == "string" and "'" .. value .. "'" or check.type_name(value)))
  end
end

local function spares(where, plain, value)
  check.option_type(where, "spares", value, "table")
  for key in pairs(value) do
    if key ~= "min" and key ~= "max" then
      check.bad(where, "spares", ("unknown field '%s' (valid: max, min)"):format(tostring(key)))
    end
  end
  local min = check.option_count(where, "spares.min", value.min, 0, 2 ^ 20)
  local max = check.option_count(where, "spares.max", value.max, 0, 2 ^ 20)
  if not min and not max then check.bad(where, "spares", "min or max expected") end
  plain.spares_min, plain.spares_max = min or max, max or min
  if plain.spares_min > plain.spares_max then
    check.bad(where, "spares", ("min (%d) is greater than max (%d)"):format(plain.spares_min,
      plain.spares_max))
  end
end

-- An option that is true, false, or as in what the process is made from.
local function option_choice(where, name, value)
  if value == nil then return nil end
  return check.option_type(where, name, value, "boolean") and YES or NO
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
  for name in pairs(choices) do
    if given[name] ~= nil then plain[name] = choice(where, name, given[name]) end
  end
  for _, name in ipairs { "dumpable", "tree" } do plain[name] = option_choice(where, name, given[name]) end
  if given.spares ~= nil then spares(where, plain, given.spares) end
  if given.env ~= nil then plain.env, failure = environment(where, given.env) end
  for _, name in ipairs { "stdin", "stdout", "stderr" } do
    if given[name] ~= nil then stream(where, plain, name, given[name]) end
  end
  return plain, failure
end

-- ---- of rpcs and pools ----

local RPC = "async init on_event on_error on_close serialiser timeout message_max grace"
local POOL = "max idle load start stop queue_max max_calls call_timeout max_memory restart backoff "
  .. "tree on_worker"
local valid_service = {
  rpc = check.set(RPC .. " strict"),
  pool = check.set(RPC .. " " .. POOL),
  with_rpc = check.set "timeout",
  with_pool = check.set "timeout idempotent",
  restart = check.set "burst period starts",
  backoff = check.set "min max",
}

local function option_name(where, name, value)
  if check.option_text(where, name, value) == "" then check.bad(where, name, "a name expected, got \"\"") end
  return value
end

local function inner(where, given, name)
  if given[name] == nil then return {} end
  check.keys(where.n, where.f, check.option_type(where, name, given[name], "table"), valid_service[name])
  return given[name]
end

local function pool_options(where, given, plain)
  local function count(name, least, most)
    plain[name] = check.option_count(where, name, given[name], least, most)
  end
  count("max", 0, 100000)
  count("idle", 0)
  count("load", 1)
  count("queue_max", 0)
  count("max_calls", 1)
  count("max_memory", 1, 2 ^ 53)
  plain.start = check.option_duration(where, "start", given.start, true)
  plain.stop = check.option_duration(where, "stop", given.stop, true)
  plain.call_timeout = check.option_duration(where, "call_timeout", given.call_timeout)
  plain.tree = option_choice(where, "tree", given.tree)
  if plain.idle and plain.max and plain.idle > plain.max then
    check.bad(where, "idle", ("%d is more than max (%d)"):format(plain.idle, plain.max))
  end
  local restart = inner(where, given, "restart")
  plain.burst = check.option_count(where, "burst", restart.burst, 0, 1000)
  plain.period = check.option_duration(where, "period", restart.period)
  plain.starts = check.option_count(where, "starts", restart.starts, 1)
  local backoff = inner(where, given, "backoff")
  plain.backoff_min = check.option_duration(where, "min", backoff.min, true)
  plain.backoff_max = check.option_duration(where, "max", backoff.max, true)
  if plain.backoff_min and plain.backoff_max and plain.backoff_min > plain.backoff_max then
    check.bad(where, "backoff", ("min (%s) is more than max (%s)"):format(tostring(backoff.min),
      tostring(backoff.max)))
  end
end

function options.of_service(f, name, given)
  local where = { f = f, n = 2 }
  check.name(1, f, name)
  if name == "" then check.fail(1, f, "the name of a function expected") end
  if given ~= nil then check.type(2, f, given, "table") end
  given = given or {}
  check.keys(2, f, given, valid_service[f])
  if given.serialiser ~= nil and given.serialiser ~= "string" then
    check.bad(where, "serialiser", "'string' expected, the only one here, got "
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
    check.bad(where, "strict", "not with async: several calls are under way there, and each may have begun")
  end
  local service = {
    name = name,
    is_pool = f == "pool",
    on_event = check.option_callback(where, "on_event", given.on_event),
    on_error = check.option_callback(where, "on_error", given.on_error),
    on_close = check.option_callback(where, "on_close", given.on_close),
    on_worker = check.option_callback(where, "on_worker", given.on_worker),
  }
  if f == "pool" then pool_options(where, given, plain) end
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
