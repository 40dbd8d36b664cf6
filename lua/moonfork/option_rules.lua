-- Options that mean the same in moonfork and in moonfork.ffi: names, ranges, and how they are
-- checked. In the syntax of every Lua. Runs in the parent.
--
-- of(check) gives them with the caller's own checks of arguments: check.lua's or ffi_check.lua's.

if rawget(_G, "jit") then rawget(_G, "jit").off(true, true) end -- see ffi.lua

local rules = {}

-- The numbers are those of the enums in moonfork.h.
rules.CHOICES = {
  session = { inherit = 0, new = 1 },
  leash = { kill = 0, term = 1, keep = 2 },
  handles = { inherit = 0, close = 1 },
  isolation = { process = 0, thread = 1 },
  gc = { generational = 0, incremental = 1, stop = 2 },
}
rules.STREAMS = { inherit = 0, null = 1, socket = 2 }
rules.STREAM_IS_HANDLE = 3

-- In the order in which they are checked: name, check.option_KIND, and what that takes besides.
local COUNT_MAX = rawget(math, "maxinteger") or 2 ^ 53
local POOL = {
  { "max", "count", 0, 100000 },
  { "idle", "count", 0 },
  { "load", "count", 1 },
  { "start", "duration", true },
  { "stop", "duration", true },
  { "queue_max", "count", 0 },
  { "max_calls", "count", 1 },
  { "call_timeout", "duration" },
  { "tree", "choice" },
  { "max_memory", "count", 1, COUNT_MAX },
}
local RESTART = { { "burst", "count", 0, 1000 }, { "period", "duration" }, { "starts", "count", 1 } }
local BACKOFF = { { "min", "duration", true }, { "max", "duration", true } }
local BACKOFF_MIN_MS, BACKOFF_MAX_MS = 50, 5000 -- as MF_POOL_OPTIONS_INIT has them
local SPARES_MAX = 2 ^ 20

local function names(list)
  local words = {}
  for i, row in ipairs(list) do words[i] = row[1] end
  return table.concat(words, " ")
end

rules.POOL = names(POOL) .. " restart backoff on_worker"

function rules.of(check)
  local own = {}

  local function read(where, given, list)
    local plain = {}
    for _, row in ipairs(list) do
      plain[row[1]] = check["option_" .. row[2]](where, row[1], given[row[1]], row[3], row[4])
    end
    return plain
  end

  -- An option that is a table of options; an empty one where it is not given. And where they are.
  local function inner(where, given, name, list)
    local value, within = given[name], { n = where.n, f = where.f, within = name .. "." }
    if value == nil then return {}, within end
    check.keys(where.n, where.f, check.option_type(where, name, value, "table"), check.set(names(list)))
    return value, within
  end

  -- One limit alone moves the other's default out of its way.
  local function backoff(where, given, plain)
    local value, within = inner(where, given, "backoff", BACKOFF)
    local limits = read(within, value, BACKOFF)
    local min, max = limits.min, limits.max
    if min and max and min > max then
      check.option_fail(where, "backoff", ("min (%s) is more than max (%s)"):format(check.show(value.min),
        check.show(value.max)))
    end
    if min then plain.backoff_min, plain.backoff_max = min, max or math.max(min, BACKOFF_MAX_MS) end
    if max then plain.backoff_min, plain.backoff_max = min or math.min(max, BACKOFF_MIN_MS), max end
  end

  -- Adds a pool's own options to the plain ones.
  function own.pool(where, given, plain)
    for name, value in pairs(read(where, given, POOL)) do plain[name] = value end
    if plain.idle and plain.max and plain.idle > plain.max then
      check.option_fail(where, "idle", ("%d is more than max (%d)"):format(plain.idle, plain.max))
    end
    local value, within = inner(where, given, "restart", RESTART)
    for name, number in pairs(read(within, value, RESTART)) do plain[name] = number end
    backoff(where, given, plain)
  end

  function own.choice(where, name, value, choices)
    if choices[value] then return choices[value] end
    local known = {}
    for word in pairs(choices) do known[#known + 1] = ("'%s'"):format(word) end
    table.sort(known)
    check.option_fail(where, name, ("one of %s expected, got %s"):format(table.concat(known, ", "),
      type(value) == "string" and ("'%s'"):format(value) or check.type_name(value)))
  end

  function own.spares(where, plain, value)
    check.option_type(where, "spares", value, "table")
    for key in pairs(value) do
      if key ~= "min" and key ~= "max" then
        check.option_fail(where, "spares", ("unknown field '%s' (valid: max, min)"):format(tostring(key)))
      end
    end
    local min = check.option_count(where, "spares.min", value.min, 0, SPARES_MAX)
    local max = check.option_count(where, "spares.max", value.max, 0, SPARES_MAX)
    if not min and not max then check.option_fail(where, "spares", "min or max expected") end
    plain.spares_min, plain.spares_max = min or max, max or min
    if plain.spares_min > plain.spares_max then
      check.option_fail(where, "spares", ("min (%d) is greater than max (%d)"):format(plain.spares_min,
        plain.spares_max))
    end
  end

  return own
end

return rules
