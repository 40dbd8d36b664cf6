-- Definitions of commands, and the argparse parsers made of them.
--
-- A definition is a table: name, summary (one line), description, arguments, options, examples,
-- notes and main. Of an argument: name ("FUNCTION"), help, many (any number, also none), optional,
-- rest (it and all that follows belong to it, options too); for completion file, or words (a list).
-- Of an option:
--
--   short, long   "-n", "--count"; the field of the result is the long name, with "_" for "-"
--   value         "N": it takes a value, which help and errors call so
--   kind          what the value is: "count" (1, 2, ...), "number" (0, 1, ...), "seconds", "bytes"
--                 (K, M, G), "file", or a list of words to choose from; default: any text
--   empty         an empty text is a value, too
--   many          it may be given several times; the result is a list
--   needs         a list of options: without one of them this one would do nothing, and is wrong usage
--   list          the name of a list that several options append to, {option, value} each, so
--                 that the order among them is kept
--   default       a text for help
--   library       the name of the library's option that the value is given to, where that is another one
--   help          a sentence without its full stop

local nearest = require "moonfork.cli.nearest"

local parser = {}

local UNITS = {[""] = 1, k = 1 << 10, m = 1 << 20, g = 1 << 30}

local kinds = {}

-- The text names the limit of numbers themselves only for what is beyond it.
local function whole(text, least)
  local is_number = text:match "^%d+$"
  local n = is_number and math.tointeger(tonumber(text))
  if n and n >= least then return n end
  return nil, ("a whole number from %d %s"):format(least,
    is_number and not n and ("to %d"):format(math.maxinteger) or "on")
end

function kinds.count(text) return whole(text, 1) end
function kinds.number(text) return whole(text, 0) end

function kinds.seconds(text)
  local n = text:match("^%d*%.?%d*$") and tonumber(text)
  if not n or n <= 0 then return nil, "seconds, a number above 0" end
  return n
end

function kinds.bytes(text)
  local digits, unit = text:lower():match("^(%d+)([kmg]?)i?b?$")
  local n = digits and math.tointeger(tonumber(digits))
  if not n or n < 1 or n > (1 << 62) // UNITS[unit] then
    return nil, "bytes, a whole number with K, M or G at its end"
  end
  return n * UNITS[unit]
end

local function choice(words)
  return function(text)
    for _, word in ipairs(words) do
      if word == text then return text end
    end
    return nil, "one of " .. table.concat(words, ", ")
  end
end

--- field(option): the name of an option's value in the result.
function parser.field(option)
  return ((option.long or option.short):gsub("^%-+", ""):gsub("%-", "_"))
end

-- A shell makes an empty word of a variable that is not set.
local function not_empty(name)
  return function(text)
    if text ~= "" then return text end
    return nil, name .. " takes a text that is not empty"
  end
end

local function convert(option)
  local read = type(option.kind) == "table" and choice(option.kind) or kinds[option.kind]
  if not read then return not option.empty and not_empty(option.long or option.short) or nil end
  return function(text)
    local value, wanted = read(text)
    if value ~= nil then return value end
    return nil, ("%s takes %s, not '%s'"):format(option.long or option.short, wanted, text)
  end
end

local function help_of(option)
  if not option.default then return option.help end
  return ("%s (default: %s)"):format(option.help, option.default)
end

-- An option that is given again replaces its value; one of a list appends to it.
local function append_to(option)
  return function(result, _, value)
    result[option.list] = result[option.list] or {}
    table.insert(result[option.list], {parser.field(option), value})
  end
end

local function add_option(command, option)
  local names = {option.short or option.long, option.short and option.long}
  local target = parser.field(option)
  if not option.value then
    command:flag(table.concat(names, " ")):description(help_of(option)):target(target)
    return
  end
  local made = command:option(table.concat(names, " ")):description(help_of(option)):argname(option.value)
    :target(target)
  -- argparse's help would give each name a line of its own, aligned at the right
  made["_get_label_lines"] = function()
    return {table.concat(names, ", ") .. " " .. option.value}
  end
  if option.many or option.list then made:count("*") end
  if option.list then made:action(append_to(option)) end
  local read = convert(option)
  if read then made:convert(read) end
end

local function add_argument(command, argument)
  local made = command:argument(argument.name):target(argument.name:lower())
    :description(argument.help)
  if not argument.rest then made:convert(not_empty(argument.name)) end
  if argument.many or argument.rest then made:args("*") elseif argument.optional then made:args("?") end
end

-- argparse keeps line ends, and those of a description are where its source has them.
local function joined(text)
  return (text:gsub("(%S)\n(%S)", "%1 %2"))
end

local function examples_of(definition)
  if not definition.examples then return nil end
  local lines = {"Examples:"}
  for _, example in ipairs(definition.examples) do
    lines[#lines + 1] = "   # " .. example[2]
    for line in example[1]:gmatch "[^\n]+" do lines[#lines + 1] = "   " .. line end
  end
  return table.concat(lines, "\n")
end

local asked -- the help that was asked for

-- argparse would leave by os.exit, and nobody would learn that standard output is full.
local function add_help(parser_or_command)
  parser_or_command:add_help{description = "Show this help message and exit.", action = function()
    asked = parser_or_command:get_help()
    error "help" -- ends the parsing
  end}
end

--- build(cli): the argparse parser of all commands.
function parser.build(cli)
  local ok, argparse = pcall(require, "argparse")
  if not ok then
    cli.fail(cli.FAILED, "the Lua module argparse is missing (Debian: lua-argparse; LuaRocks: "
      .. "luarocks install argparse)")
  end
  local codes = {"Exit codes:"}
  for _, code in ipairs(cli.exit_codes) do
    codes[#codes + 1] = ("   %-9s %s"):format(code[1], code[2])
  end
  local program = argparse("moonfork", joined(cli.about.description),
    table.concat(codes, "\n") .. "\n\nmoonfork COMMAND --help says more about a command.")
  program:help_max_width(90):help_description_margin(24)
  program:command_target("command"):require_command(false)
  add_help(program)
  program:flag("--version"):description("Print the version and exit.")
  for _, name in ipairs(cli.commands) do
    local definition = cli.definition(name)
    local command = program:command(definition.name):summary(definition.summary .. ".")
      :description(joined(definition.description or definition.summary .. "."))
      :epilog(examples_of(definition))
    add_help(command)
    for _, option in ipairs(definition.options or {}) do add_option(command, option) end
    for _, argument in ipairs(definition.arguments or {}) do add_argument(command, argument) end
  end
  return program
end

-- The value of an option may begin with a minus, as Lua source does that begins with a comment: it is
-- tied to the option, or argparse would take it for one.
local function tie_values(definition, words)
  local long_of = {}
  for _, option in ipairs(definition.options or {}) do
    if option.value and option.long then
      long_of[option.long] = option.long
      if option.short then long_of[option.short] = option.long end
    end
  end
  local result, i = {}, 1
  while i <= #words and words[i] ~= "--" do
    local long, value = long_of[words[i]], words[i + 1]
    if long and value and value:find "^%-." then
      result[#result + 1] = long .. "=" .. value
      i = i + 2
    else
      result[#result + 1] = words[i]
      i = i + 1
      if long and value then
        result[#result + 1] = value
        i = i + 1
      end
    end
  end
  return table.move(words, i, #words, #result + 1, result)
end

-- Where a command's last argument takes the rest of the line, what follows the argument before it
-- is not read as options: "--" is put there.
local function protect_rest(definition, words)
  local arguments = definition.arguments or {}
  local last = arguments[#arguments]
  if not (last and last.rest) then return words end
  local takes_value = {}
  for _, option in ipairs(definition.options or {}) do
    if option.value then
      if option.short then takes_value[option.short] = true end
      if option.long then takes_value[option.long] = true end
    end
  end
  local needed = #arguments - 1
  local result, i = {}, 1
  while i <= #words and needed > 0 do
    local word = words[i]
    if word == "--" then return words end
    result[#result + 1] = word
    if takes_value[word] then
      i = i + 1
      result[#result + 1] = words[i]
    elseif not word:match("^%-.") then
      needed = needed - 1
    end
    i = i + 1
  end
  if i <= #words and words[i] ~= "--" then result[#result + 1] = "--" end
  for k = i, #words do result[#result + 1] = words[k] end
  return result
end

-- An option that would be ignored is a mistake of the caller's.
local function check_needs(cli, definition, result)
  local function is_given(long) return result[parser.field{long = long}] ~= nil end
  for _, option in ipairs(definition.options or {}) do
    if option.needs and is_given(option.long) then
      local found = false
      for _, long in ipairs(option.needs) do found = found or is_given(long) end
      if not found then
        local name = "moonfork " .. definition.name
        error({exit = cli.USAGE, name = name, message = ("%s needs %s; see %s --help"):format(
          option.long, table.concat(option.needs, " or "), name)}, 0)
      end
    end
  end
end

-- What else a wrong word may have meant: a text to follow it, or nil.
local function hint(word, names)
  local name = nearest(word, names)
  return name and (" (did you mean '%s'?)"):format(name)
end

local function refuse_command(cli, word)
  cli.fail(cli.USAGE, "there is no command '%s'%s; see moonfork --help", word,
    hint(word, cli.commands) or (" (there are: %s)"):format(table.concat(cli.commands, ", ")))
end

-- argparse has hints of its own, on a line of their own, which miss two letters that were exchanged.
local function message_of(problem, definition)
  problem = problem:gsub("^option '.-': ", ""):gsub("\nDid you mean.*", ""):gsub("\n", ". ")
  local word = problem:match "^unknown option '(%-%-.+)'$"
  if not word then return problem end
  local names = {"--help", not definition and "--version" or nil}
  for _, option in ipairs(definition and definition.options or {}) do
    names[#names + 1] = option.long
  end
  return problem .. (hint(word, names) or "")
end

--- parse(cli, arg): the command's definition and the options. Wrong usage ends the program.
function parser.parse(cli, arguments)
  local program = parser.build(cli)
  local words = table.move(arguments, 1, #arguments, 1, {})
  local known = {}
  for _, name in ipairs(cli.commands) do known[name] = cli.definition(name) end
  local definition = known[words[1]]
  if definition then
    local rest = tie_values(definition, protect_rest(definition, table.move(words, 2, #words, 1, {})))
    words = table.move(rest, 1, #rest, 2, {definition.name})
  elseif words[1] and words[1]:sub(1, 1) ~= "-" then
    refuse_command(cli, words[1])
  elseif not words[1] then
    cli.fail(cli.USAGE, "a command is missing (there are: %s); see moonfork --help",
      table.concat(cli.commands, ", "))
  end
  local parsed, ok, result = pcall(program.pparse, program, words)
  if asked then
    io.stdout:write(asked, "\n")
    cli.quit(cli.OK)
  end
  if not parsed then error(ok, 0) end
  if not ok then
    local name = definition and "moonfork " .. definition.name or "moonfork"
    error({exit = cli.USAGE, name = name, message = ("%s; see %s --help"):format(
      message_of(result, definition), name)}, 0)
  end
  for _, option in ipairs(definition and definition.options or {}) do
    local name = parser.field(option) -- argparse gives an empty list for what was not given
    if option.many and #result[name] == 0 then result[name] = nil end
  end
  if definition then check_needs(cli, definition, result) end
  return definition, result
end

return parser
