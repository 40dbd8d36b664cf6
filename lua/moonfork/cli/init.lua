-- The program `moonfork`: one file of this folder is one command. main(arg) gives the exit code.
--
--   NAME.lua     a command: a definition (parser.lua says of what) and main(options)
--   parser.lua   definitions -> argparse: --help, wrong usage
--   manual.lua   definitions -> manual pages
--   completion.lua definitions -> completion for shells
--   template.lua what run, map and serve have in common: a template from -l and -e
--   interrupt.lua the first Ctrl-C drains, the second kills
--   terminal.lua what is written to the terminal, and with which colours
--
-- Definitions need neither the library nor a terminal, so that manual pages and completion can be
-- made when moonfork is built.

local cli = {
  -- in the order of --help
  commands = {"run", "map", "serve", "top", "node", "call", "image", "agent", "doctor", "bench"},
}

-- Exit codes, as --help and the manual pages tell them.
cli.OK, cli.FAILED, cli.USAGE, cli.UNUSABLE, cli.INTERRUPTED, cli.TERMINATED = 0, 1, 2, 126, 130, 143

cli.exit_codes = {
  {"0", "all went well"},
  {"1", "a call, a clone or a check failed"},
  {"2", "wrong usage"},
  {"126", "a function, a module or a file can't be used"},
  {"130, 143", "ended by an interrupt (Ctrl-C), by SIGTERM"},
}

cli.about = {
  name = "moonfork",
  summary = "template processes for Lua: load once, fork ready interpreters",
  description = [[
A template process loads modules once. From it clones are forked, each in the time of a fork with
everything loaded and with memory that is shared, and each runs one named Lua function.]],
}

cli.environment = {
  {"NO_COLOR", "no colours, whatever the terminal can do"},
  {"LUA_PATH, LUA_CPATH", "where Lua modules are looked for, in the template too"},
  {"MOONFORK_TEMPLATE", "the template program, instead of the installed one"},
  {"MOONFORK_REMOTE", "the program moonfork-remote, instead of the installed one"},
}

--- definition(name): a command's definition.
function cli.definition(name)
  return require("moonfork.cli." .. name)
end

--- fail(code, text): ends the program with one line on standard error; never returns.
function cli.fail(code, format, ...)
  error({exit = code, message = select("#", ...) > 0 and format:format(...) or format}, 0)
end

--- fail_at(addresses, code, text): as fail; wrong usage where one of the addresses can't be one.
function cli.fail_at(addresses, code, text)
  for _, address in ipairs(addresses) do
    if text:find(("'%s' is not an address"):format(address), 1, true) then code = cli.USAGE end
  end
  cli.fail(code, "%s", text)
end

--- quit(code): ends the program with that exit code; never returns.
function cli.quit(code)
  error({exit = code}, 0)
end

-- A module is not found, too, where there is no descriptor to look at its file.
local function true_reason(text)
  local module = text:match "^[^\n]*module '([^']*)' not found:"
  if not module then return text end
  local file, message = io.open "/dev/null"
  if file then
    file:close()
    return text
  end
  return ("the module '%s' can't be read: %s"):format(module, message:gsub("^.-: ", ""))
end

--- printable(text): without what a terminal would do something at, but for the ends of lines. The
-- second range are the control characters of eight bits, as UTF-8 has them.
function cli.printable(text)
  return (text:gsub("[%z\1-\8\11-\31\127]", "?"):gsub("\194[\128-\159]", "?"))
end

--- printable_line(text): the same, in one line.
function cli.printable_line(text)
  return (cli.printable(text):gsub("%c", "?"))
end

-- In characters; format counts bytes. What is not UTF-8 has a byte for each.
local function length_of(text)
  return utf8.len(text) or #text
end

--- padded(text, length): with blanks behind it, for a column.
function cli.padded(text, length)
  return text .. (" "):rep(length - length_of(text))
end

--- cut(text, length): its first characters.
function cli.cut(text, length)
  if length_of(text) <= length then return text end
  return text:sub(1, utf8.len(text) and utf8.offset(text, length + 1) - 1 or length)
end

--- explain(text): a message, printable, with what to do where descriptors were missing; and whether they were.
-- That is no fault of a function, a module or a file, whatever could not be done without one.
function cli.explain(text)
  local system = package.loaded["moonfork.cli.system"]
  text = cli.printable(true_reason(text))
  if not system then return text, false end
  if text:find(system.no_descriptor_at_all, 1, true) then return text, true end
  if not text:find(system.no_descriptor, 1, true) then return text, false end
  return text .. "; `ulimit -n` sets how many this shell's programs may have", true
end

local something_failed = false

--- note_failure(): the command goes on, and where nothing else is wrong its exit code is cli.FAILED.
function cli.note_failure()
  something_failed = true
end

local deferred = {}

--- defer(f): f() runs when the command has ended, however it ended; the last one first.
function cli.defer(f)
  deferred[#deferred + 1] = f
end

local function finish()
  while #deferred > 0 do
    local ok, err = pcall(table.remove(deferred))
    if not ok then io.stderr:write("moonfork: ", tostring(err), "\n") end
  end
end

local function version()
  local system = package.loaded["moonfork.cli.system"]
  local core = require "moonfork.load"
  if system and system.version ~= core.version then
    cli.fail(cli.FAILED, "this program (%s) is of moonfork %s, but the modules that Lua finds (%s, %s) are of "
      .. "moonfork %s; both have to be of one version: correct PATH, LUA_PATH and LUA_CPATH",
      system.path or "moonfork", system.version, package.searchpath("moonfork.load", package.path) or "?",
      package.searchpath("moonfork.core", package.cpath) or "?", core.version)
  end
  return core.version
end

local function with_traceback(err)
  if type(err) == "table" then return err end
  return debug.traceback(err, 2)
end

-- What the library's option is called on the command line: "--jobs" of map for "max".
local function option_name(command, name)
  local parser = require "moonfork.cli.parser"
  for _, option in ipairs(command and command.options or {}) do
    if option.library == name or parser.field(option) == name then return option.long end
  end
  return "--" .. name
end

--- main(arg): parses the command line and executes the command; the exit code.
function cli.main(arguments)
  local name, command = "moonfork", nil
  local ok, result = xpcall(function()
    local options
    command, options = require("moonfork.cli.parser").parse(cli, arguments)
    if options.version then
      io.stdout:write(("moonfork %s, %s\n"):format(version(), require("moonfork.load").lua or _VERSION))
      return cli.OK
    end
    name = "moonfork " .. command.name
    if not command.checks_versions then version() end
    return command.main(options) or cli.OK
  end, with_traceback)
  finish()
  if ok then return result == cli.OK and something_failed and cli.FAILED or result end
  if type(result) == "table" and result.exit then
    local code = result.exit
    if result.message then
      local message, is_short = cli.explain(result.message)
      if is_short and code == cli.UNUSABLE then code = cli.FAILED end
      io.stdout:flush()
      io.stderr:write((result.name or name), ": ", message, "\n")
    end
    return code
  end
  local option, why = tostring(result):match "^[^\n]*bad argument #%d+ to '[^']*' %(option '([^']*)': ([^\n]*)%)\n"
  if option then -- a value that only the library can judge
    io.stderr:write(("%s: %s: %s; see %s --help\n"):format(name, option_name(command, option), why, name))
    return cli.USAGE
  end
  io.stderr:write(name, ": ", (cli.explain(type(result) == "table" and result.message or tostring(result))), "\n")
  return cli.FAILED
end

return cli
