-- Completion for bash, zsh and fish, from the definitions of the commands (parser.lua). Needs neither
-- argparse nor the library.
--
-- A word that follows an option with a value is a file name ("file"), one of some words, or free: then
-- nothing is offered. So it is with arguments: their `file`, `words`, or neither.

local completion = {}

local function names_of(option)
  local names = {}
  if option.short then names[#names + 1] = option.short end
  if option.long then names[#names + 1] = option.long end
  return names
end

local function words_of(option)
  return type(option.kind) == "table" and option.kind or option.words
end

local HELP = {short = "-h", long = "--help", help = "Show help and exit"}

local function options_of(definition)
  local options = table.move(definition.options or {}, 1, #(definition.options or {}), 1, {})
  options[#options + 1] = HELP
  return options
end

-- The last argument is the one that may be repeated; the function of a command is free.
local function last_argument(definition)
  local arguments = definition.arguments or {}
  return arguments[#arguments], #arguments
end

local function quote(text)
  return "'" .. text:gsub("'", [['\'']]) .. "'"
end

-- ---- bash ----

-- For each command: after which options what comes, its options, and its last argument.
function completion.bash(cli)
  local lines = {
    "# bash completion for moonfork; made from the definitions of its commands.",
    "_moonfork() {",
    "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}",
    "  [ \"$prev\" != = ] || prev=${COMP_WORDS[COMP_CWORD-2]}",
    "  [ \"$cur\" != = ] || cur=",
    "  COMPREPLY=()",
    "  if [ \"$COMP_CWORD\" = 1 ]; then",
    "    _moonfork_words " .. table.concat(cli.commands, " ") .. " -h --help --version",
    "    return",
    "  fi",
    "  case \"${COMP_WORDS[1]} $prev\" in",
  }
  local function add(format, ...) lines[#lines + 1] = format:format(...) end
  local function case(command, names, action)
    local patterns = {}
    for i, name in ipairs(names) do patterns[i] = ("'%s %s'"):format(command, name) end
    add("  %s) %s; return ;;", table.concat(patterns, " | "), action)
  end
  for _, name in ipairs(cli.commands) do
    for _, option in ipairs(cli.definition(name).options or {}) do
      if option.value then
        local words = words_of(option)
        case(name, names_of(option), words and "_moonfork_words " .. table.concat(words, " ")
          or option.kind == "file" and "_moonfork_files" or ":")
      end
    end
  end
  add "  esac"
  add "  case \"${COMP_WORDS[1]} $cur\" in"
  for _, name in ipairs(cli.commands) do
    local all = {}
    for _, option in ipairs(options_of(cli.definition(name))) do
      for _, word in ipairs(names_of(option)) do all[#all + 1] = word end
    end
    add("  '%s -'*) _moonfork_words %s; return ;;", name, table.concat(all, " "))
  end
  add "  esac"
  add "  case ${COMP_WORDS[1]} in"
  for _, name in ipairs(cli.commands) do
    local argument = last_argument(cli.definition(name))
    if argument and (argument.file or argument.rest) then
      add("  %s) _moonfork_files ;;", name)
    elseif argument and argument.words then
      add("  %s) _moonfork_words %s ;;", name, table.concat(argument.words, " "))
    end
  end
  add "  esac"
  add "}"
  add "_moonfork_words() {"
  add "  local word"
  add "  for word in \"$@\"; do"
  add "    case $word in \"$cur\"*) COMPREPLY+=(\"$word\") ;; esac"
  add "  done"
  add "}"
  add "_moonfork_files() {"
  add "  local word"
  add "  while IFS= read -r word; do COMPREPLY+=(\"$word\"); done < <(compgen -f -- \"$cur\")"
  add "  compopt -o filenames 2>/dev/null"
  add "}"
  add "complete -F _moonfork moonfork"
  return table.concat(lines, "\n") .. "\n"
end

-- ---- zsh ----

-- In a specification of _arguments.
local function zsh_text(text)
  return (text:gsub("[%[%]:\\]", "\\%0"))
end

local function zsh_action(item)
  local words = words_of(item)
  if words then return "(" .. table.concat(words, " ") .. ")" end
  return (item.kind == "file" or item.file or item.rest) and "_files" or " "
end

local function zsh_option(option)
  local names = names_of(option)
  local exclusion = (option.many or option.list) and "*" or "(" .. table.concat(names, " ") .. ")"
  local value = option.value and (":%s:%s"):format(zsh_text(option.value), zsh_action(option)) or ""
  local specs = {}
  for i, name in ipairs(names) do
    local glue = option.value and name:find "^%-%-" and "=" or ""
    specs[i] = quote(("%s%s%s[%s]%s"):format(exclusion, name, glue, zsh_text(option.help), value))
  end
  return table.concat(specs, " ")
end

function completion.zsh(cli)
  local lines = {
    "#compdef moonfork",
    "# zsh completion for moonfork; made from the definitions of its commands.",
    "_moonfork() {",
    "  local curcontext=$curcontext state line",
    "  typeset -A opt_args",
    "  _arguments -C '(- *)'{-h,--help}'[Show help and exit]' '(- *)--version[Print the version and exit]' \\",
    "    '1:command:->command' '*::argument:->argument'",
    "  case $state in",
    "  command)",
    "    local -a commands=(",
  }
  local function add(format, ...) lines[#lines + 1] = format:format(...) end
  for _, name in ipairs(cli.commands) do
    add("      %s", quote(name .. ":" .. zsh_text(cli.definition(name).summary)))
  end
  add "    )"
  add "    _describe command commands ;;"
  add "  argument)"
  add "    case $words[1] in"
  for _, name in ipairs(cli.commands) do
    local definition = cli.definition(name)
    add("    %s)", name)
    add "      _arguments -s \\"
    for _, option in ipairs(options_of(definition)) do add("        %s \\", zsh_option(option)) end
    for i, argument in ipairs(definition.arguments or {}) do
      local place = (argument.many or argument.rest) and "*" or tostring(i)
      add("        %s \\", quote(("%s:%s:%s"):format(place, zsh_text(argument.name), zsh_action(argument))))
    end
    add "        && return ;;"
  end
  add "    esac ;;"
  add "  esac"
  add "}"
  add "_moonfork \"$@\""
  return table.concat(lines, "\n") .. "\n"
end

-- ---- fish ----

local function fish_value(item)
  local words = words_of(item)
  if words then return " -x -a " .. quote(table.concat(words, " ")) end
  return item.kind == "file" and " -r -F" or " -x"
end

function completion.fish(cli)
  local lines = {
    "# fish completion for moonfork; made from the definitions of its commands.",
    "function __fish_moonfork_is",
    "    set -l words (commandline -opc)",
    "    test (count $words) -ge 2; and test $words[2] = $argv[1]",
    "end",
    "function __fish_moonfork_no_command",
    "    test (count (commandline -opc)) -eq 1",
    "end",
    "complete -c moonfork -f",
    "complete -c moonfork -n __fish_moonfork_no_command -l version -d 'Print the version and exit'",
    "complete -c moonfork -s h -l help -d 'Show help and exit'",
  }
  local function add(format, ...) lines[#lines + 1] = format:format(...) end
  for _, name in ipairs(cli.commands) do
    local definition = cli.definition(name)
    add("complete -c moonfork -n __fish_moonfork_no_command -a %s -d %s", name, quote(definition.summary))
    local is = ("complete -c moonfork -n '__fish_moonfork_is %s'"):format(name)
    for _, option in ipairs(definition.options or {}) do
      add("%s%s%s%s -d %s", is, option.short and " -s " .. option.short:sub(2) or "",
        option.long and " -l " .. option.long:sub(3) or "", option.value and fish_value(option) or "",
        quote(option.help))
    end
    local argument = last_argument(definition)
    if argument and argument.words then
      add("%s -a %s", is, quote(table.concat(argument.words, " ")))
    elseif argument and (argument.file or argument.rest) then
      add("%s -F", is)
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

return completion
