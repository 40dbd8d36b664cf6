-- The template of a command: an executed interpreter that has loaded what -l and -e say.

local cli = require "moonfork.cli"
local interrupt = require "moonfork.cli.interrupt"
local one_line = require("moonfork.serve_log").one_line

local template = {}

--- The options and the argument that commands with a template have in common.
template.options = {
  {short = "-l", long = "--load", value = "MODULE", list = "code",
   help = "Load a module in the template, in the order of the -l and -e"},
  {short = "-e", long = "--eval", value = "CODE", list = "code", empty = true,
   help = "Run Lua source in the template"},
}
template.on = {long = "--on", value = "COMMAND", many = true,
  help = "Run behind this command of the shell, as in --on 'ssh host'; several times for several commands. "
    .. "`moonfork agent` is added if the command does not name it; `local`: on this machine, too. "
    .. "--image names a file over there"}
template.image = {long = "--image", value = "FILE", kind = "file",
  help = "Begin with the template of this file, made by `moonfork image` or clone.hibernate"}
template.argument = {name = "FUNCTION",
  help = "'module:name' (the module is loaded), or the name of a global, dotted for fields"}

-- Looks for the function as a run or a call will, so that a name that is none is told before
-- anything is started.
local RESOLVE = [[-- =moonfork
local name = ...
local module, field = name:match("^([^:]+):(.+)$")
local value = module and require(module) or _G
for key in (field or name):gmatch("[^.]+") do
  if type(value) ~= "table" then value = nil break end
  value = value[key]
end
local meta = debug.getmetatable(value)
if type(value) ~= "function" and not (meta and meta.__call) then
  local what = module and ("the module '%s' has no function '%s'"):format(module, field)
    or ("there is no global function '%s'; -l loads a module, 'module:name' names one of its functions")
      :format(name)
  error(what .. (value ~= nil and (" (it is a %s)"):format(type(value)) or ""), 0)
end
]]

-- Runs CODE under the name that messages give it.
local EVAL = [[-- =moonfork
local code, name = ...
assert(load(code, "=" .. name))()
]]

-- What a module is not found by says where was looked, in twenty lines.
local function with_advice(text)
  local module = text:match "module '(.-)' not found"
  if not module or text:find("module '" .. module .. "' has", 1, true) then return text end
  return ("module '%s' not found (LUA_PATH and LUA_CPATH say where modules are looked for)"):format(module)
end

-- What a template was at when it ended, for the errors that say only that it has.
local at_work

-- Called when an item has been loaded, or not.
local function note(item, name, err)
  if err and err.code == "CLONE_DIED" and not at_work then at_work = {item = item, name = name} end
end

local function ended_while_loading(err)
  if type(err) ~= "table" or not at_work or not err.exit or not (err.exit.code or err.exit.signal) then return end
  if err.code ~= "CLONE_DIED" and err.code ~= "TEMPLATE_DIED" then return end
  local ended_by = require "moonfork.ended_by"
  local what = at_work.item[1] == "load" and ended_by.while_loading(at_work.item[2])
    or ("the code of %s ended the template"):format(at_work.name:match "^%((.*)%)$")
  return ended_by.text(what, err.exit)
end

--- first_line(err): an error in one line, without what Lua puts before it on the way.
function template.first_line(err)
  local ended = ended_while_loading(err)
  if ended then return ended end
  local text = type(err) == "table" and err.message or tostring(err)
  return (one_line(with_advice(text)):gsub("^moonfork:%d+: ", ""))
end

--- make(options [, tree]): the template of a command, and its function found in it. tree: what its
-- clones start ends with them.
function template.make(options, tree)
  return template.fill(require("moonfork").new_exec{session = "new", tree = tree, image = options.image},
    options)
end

-- Trees need /proc.
local function have_proc()
  local file = io.open "/proc/self/stat"
  return file and file:close()
end

-- What --on was given as the command of fork.remote.
local function command_of(text)
  if not text:find("moonfork%S*%s+agent") then text = text .. " moonfork agent" end
  return {"sh", "-c", text}
end

--- make_all(options): the templates of a command that takes --on, at least one. What their clones
-- start ends with them, so that nothing stays behind.
function template.make_all(options)
  local list, tree = {}, have_proc()
  for i, text in ipairs(options.on or {}) do
    if text == "local" then
      list[i] = template.make(options, tree)
    elseif not text:find "%S" then
      cli.fail(cli.USAGE, "option '--on': a command expected, as 'ssh host'")
    else
      list[i] = template.fill(require("moonfork").remote{command = command_of(text), session = "new",
        tree = tree, image = options.image}, options)
    end
  end
  if not list[1] then list[1] = template.make(options, tree) end
  return list
end

--- load(process, options): loads into it what -l and -e say.
function template.load(process, options)
  local count = 0
  for _, item in ipairs(options.code or {}) do
    local name
    if item[1] == "load" then
      process:require(item[2])
    else
      count = count + 1
      name = count == 1 and "(-e)" or ("(-e %d)"):format(count)
      process:eval(EVAL, item[2], name)
    end
    process:memory(function(err) note(item, name, err) end)
  end
  return process
end

--- fill(process, options): does that, and looks for the function, where one is named.
function template.fill(process, options)
  template.load(process, options)
  if options["function"] then process:eval(RESOLVE, options["function"]) end
  process:seal()
  return process
end

--- wait_loaded(process): until it has executed all of that: true, or nil, err.
function template.wait_loaded(process)
  local memory, err = process:memory()
  return memory and true, err
end

--- trace(path): option --trace. A trace that can't go on, because the disk is full, is told at once;
-- the work goes on, and the exit code says that something failed.
function template.trace(path)
  local fork = require "moonfork"
  local ok, err = fork.trace(path)
  if not ok then cli.fail(cli.UNUSABLE, "%s", template.first_line(err)) end
  fork.on_error(function(failure)
    local message = template.first_line(failure)
    if not message:find "^the trace " then error(failure, 0) end
    io.stderr:write("moonfork: ", cli.printable(message), "\n")
    cli.note_failure()
  end)
end

--- unusable(err): ends the program because a function, a module or the template can't be used.
function template.unusable(err)
  require("moonfork").step(0) -- Ctrl-C reaches a command of --on as well, and perhaps first
  if interrupt.code then cli.quit(interrupt.code) end
  cli.fail(cli.UNUSABLE, "%s", template.first_line(err))
end

return template
