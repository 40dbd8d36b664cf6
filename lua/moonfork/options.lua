-- Options of new processes: from the table that a program wrote to the plain one that
-- moonfork.core reads. Wrong types and unknown names raise; a handle that is not open is
-- a runtime error and is returned. Runs in the parent.

local core = require("moonfork.load").of(...)
local check = require "moonfork.check"
local rules = require "moonfork.option_rules"

local options = {}

local set, bad = check.set, check.option_fail
local expect, text = check.option_type, check.option_text

local COMMON = "env cwd stdin stdout stderr timeout session leash handles name dumpable tree"
local EXEC = COMMON .. " path cpath gc spares verify rebuild"
local valid = {
  new = set(COMMON),
  fork = set(COMMON .. " isolation lazy"),
  template = set(COMMON),
  from_fd = set "timeout name", -- the others act when a process is made
  new_exec = set(EXEC .. " program image"),
  load = set(EXEC .. " program image"), -- of_load's
  remote = set(EXEC .. " image command beat window"),
}

local valid_of_load = set(EXEC .. " program")
local BEAT_MIN_MS, BEAT_MAX_MS = 10, 3600000 -- as LINK_... in src/wire/link.h
local WINDOW_MIN, WINDOW_MAX = 4096, 64 << 20

local checked = rules.of(check)

-- {NAME = "value" | number | false} to "NAME=value" and "NAME"; then an error, if one can't be
-- sent.
local function environment(where, changes)
  local list, failure = {}, nil
  for name, value in pairs(expect(where, "env", changes, "table")) do
    if type(name) ~= "string" or name == "" or name:find("[=\0]") then
      bad(where, "env", "not the name of a variable: " .. check.show(name))
    end
    if value == false then
      list[#list + 1] = name
    elseif math.type(value) then
      local number = check.number_text(value)
      if not number then
        failure = core.error("EINVAL", ("option 'env.%s': it is not a number (nan)"):format(name))
      end
      list[#list + 1] = name .. "=" .. (number or "")
    elseif type(value) == "string" then
      list[#list + 1] = name .. "=" .. text(where, "env." .. name, value)
    else
      bad(where, "env." .. name, "string, number or false expected, got "
        .. check.type_name(value))
    end
  end
  table.sort(list)
  return list, failure
end

local function stream(where, plain, name, value)
  local kind = rules.STREAMS[value]
  if kind then
    plain[name] = kind
    return
  end
  if type(value) == "string" then
    bad(where, name, "'inherit', 'null', 'socket' or a handle expected, got '" .. value .. "'")
  end
  local ok, fd, message = pcall(core.handle, value)
  if not ok then
    bad(where, name, "a handle expected, got " .. check.type_name(value))
  end
  if not fd then return core.error("EINVAL", ("option '%s': %s"):format(name, message)) end
  plain[name], plain[name .. "_fd"] = rules.STREAM_IS_HANDLE, fd
end

-- The command of a remote process: a program and its arguments.
local function command(where, plain, given)
  local list = {}
  for i, word in ipairs(expect(where, "command", given.command or {}, "table")) do
    list[i] = text(where, ("command[%d]"):format(i), word)
  end
  if not list[1] or list[1] == "" or next(given.command, #list) ~= nil then
    bad(where, "command", "a list of strings expected, the program first")
  end
  plain.command = list
  local beat = check.option_duration(where, "beat", given.beat)
  if beat and (beat < BEAT_MIN_MS or beat > BEAT_MAX_MS) then
    bad(where, "beat", "seconds from 0.01 to 3,600 expected")
  end
  plain.beat = beat
  plain.window = check.option_count(where, "window", given.window, WINDOW_MIN, WINDOW_MAX)
end

local NONE = {}
-- What a thread can't have of its own, with the values that ask for nothing.
local OF_PROCESSES = { env = NONE, stdin = "inherit", stdout = "inherit", stderr = "inherit",
  session = "inherit", leash = "kill", dumpable = NONE, tree = false }

local function is_empty(value)
  return type(value) == "table" and next(value) == nil
end

function options.thread_error(given)
  for name, nothing in pairs(OF_PROCESSES) do
    local value = given[name]
    if value ~= nil and value ~= nothing and not is_empty(value) then
      return core.error("UNSUPPORTED", ("option '%s': a clone that is a thread (isolation) has "
        .. "that of its process"):format(name))
    end
  end
end

local LAZY = { [false] = 0, [true] = 1, try = 2 }

-- Of a clone that is a thread; in processes that isolation makes nothing of it has a meaning.
function options.lazy(where, value, isolation)
  if value == nil then return nil end
  local number = LAZY[value]
  if not number then
    bad(where, "lazy", "true, false or 'try' expected, got " .. check.show(value))
  end
  if number ~= 0 and isolation ~= rules.CHOICES.isolation.thread then
    bad(where, "lazy", "it needs isolation = 'thread': processes share memory by themselves")
  end
  return number
end

-- nil: no limit.
local function timeout(where, value)
  local ms = check.option_duration(where, "timeout", value)
  return ms ~= check.FOREVER and ms or nil
end

-- Relative entries of a path are bound to the directory of this moment.
local function bind(path, cwd)
  if cwd:find("[;?]") then return path end
  if cwd == "/" then cwd = "" end
  return (path:gsub("[^;]+", function(entry)
    if entry:sub(1, 1) == "/" then return nil end
    return cwd .. "/" .. entry:gsub("^%./", "")
  end))
end

local last = {} -- the latest answers: paths and directory seldom change

local function paths()
  local path, cpath, cwd = package.path, package.cpath, core.getcwd()
  if not cwd then return path, cpath end
  if last.path ~= path or last.cpath ~= cpath or last.cwd ~= cwd then
    last = { path = path, cpath = cpath, cwd = cwd, bind(path, cwd), bind(cpath, cwd) }
  end
  return last[1], last[2]
end

-- The path of an image, bound to the directory of this moment; or nil and an error. That of a file
-- on the far side of a link stays as it is: a relative one belongs to a directory over there.
function options.image_path(path, is_far)
  if path == "" or path:find "\0" then
    return nil, core.error("EINVAL", "the path of a file expected, got "
      .. (path == "" and "an empty string" or "one with a zero byte"))
  end
  if is_far or path:sub(1, 1) == "/" then return path end
  local cwd = core.getcwd()
  if not cwd then
    return nil, core.error("EINVAL", "the current directory is gone, and the path of the image is relative")
  end
  return (cwd == "/" and "" or cwd) .. "/" .. path
end

-- Of new_exec and remote: the image that it begins as.
local function image(where, plain, given)
  local file = text(where, "image", given.image)
  if given.verify ~= nil then
    plain.verify = expect(where, "verify", given.verify, "boolean") and 1 or nil
  end
  if given.rebuild ~= nil then
    expect(where, "rebuild", given.rebuild, "function")
  end
  if not file then
    for _, name in ipairs { "verify", "rebuild" } do
      if given[name] ~= nil then bad(where, name, "it needs the option 'image'") end
    end
    return nil
  end
  local failure
  plain.image, failure = options.image_path(file, where.f == "remote")
  return failure
end

local STARTS = { new = true, new_exec = true, load = true, template = true }

local function check_dot(n, f, given)
  if given == nil or given ~= package.loaded.moonfork then return end
  check.fail(n, f, ("the module itself is no %s; use a dot: fork.%s(...)"):format(
    f == "load" and "path" or "options table", f))
end

-- Of fork.load(file, given), for read: those of new_exec with an image.
function options.of_load(file, given)
  check_dot(1, "load", file)
  local own = { image = check.name(1, "load", file) }
  given = check.optional(2, "load", given, "table") or {}
  if given.image ~= nil then check.fail(2, "load", "there is no option 'image': the first argument is the file") end
  check.keys(2, "load", given, valid_of_load)
  for name, value in pairs(given) do own[name] = value end
  return own
end

-- The plain options, or nil and an error. f names the function for messages, n the
-- argument.
function options.read(f, n, given)
  local where = { f = f, n = n }
  check_dot(n, f, given)
  given = check.optional(n, f, given, "table") or {}
  check.keys(n, f, given, valid[f])
  local path, cpath
  if STARTS[f] and not given.image then path, cpath = paths() end -- an image has its own
  local plain = {
    path = text(where, "path", given.path) or path,
    cpath = text(where, "cpath", given.cpath) or cpath,
    program = text(where, "program", given.program),
    cwd = text(where, "cwd", given.cwd),
    name = text(where, "name", given.name),
    timeout = timeout(where, given.timeout),
  }
  for name, choices in pairs(rules.CHOICES) do
    if given[name] ~= nil then plain[name] = checked.choice(where, name, given[name], choices) end
  end
  for _, name in ipairs { "dumpable", "tree" } do
    plain[name] = check.option_choice(where, name, given[name])
  end
  plain.lazy = options.lazy(where, given.lazy, plain.isolation)
  if f == "remote" then command(where, plain, given) end
  if given.spares ~= nil then checked.spares(where, plain, given.spares) end
  local failure = plain.isolation == 1 and options.thread_error(given) or image(where, plain, given)
  if given.env ~= nil then
    local bad_value
    plain.env, bad_value = environment(where, given.env)
    failure = failure or bad_value
  end
  for _, name in ipairs { "stdin", "stdout", "stderr" } do
    if given[name] ~= nil then
      failure = stream(where, plain, name, given[name]) or failure
    end
  end
  if failure then return nil, failure end
  return plain
end

return options
