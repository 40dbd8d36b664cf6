-- Manual pages and completion, from the definitions of the commands. moonfork is built with it:
--
--   lua manual.lua page [COMMAND]         moonfork(1), moonfork-COMMAND(1) to standard output
--   lua manual.lua completion SHELL       bash, zsh or fish
--   lua manual.lua commands               their names, a line each

local cli = require "moonfork.cli"
local manual = {}

-- Text for roff: no line begins a request, and a minus is one that can be copied.
local function escape(text)
  text = text:gsub("\\", "\\e"):gsub("%-", "\\-")
  return (("\n" .. text):gsub("\n([.'])", "\n\\&%1"):sub(2))
end

local function sentence(text)
  return (text:gsub("^%l", string.upper)) .. (text:match "[.]$" and "" or ".")
end

local function names_of(option)
  local names = {}
  for _, name in ipairs{option.short or false, option.long or false} do
    if name then
      names[#names + 1] = "\\fB" .. escape(name) .. "\\fR" ..
        (option.value and " \\fI" .. escape(option.value) .. "\\fR" or "")
    end
  end
  return table.concat(names, ", ")
end

local function usage_of(definition)
  local words = {"\\fBmoonfork " .. escape(definition.name) .. "\\fR"}
  for _, option in ipairs(definition.options or {}) do
    local name = "\\fB" .. escape(option.short or option.long) .. "\\fR"
    if option.value then name = name .. "\\ \\fI" .. escape(option.value) .. "\\fR" end
    words[#words + 1] = "[" .. name .. "]" .. ((option.many or option.list) and "..." or "")
  end
  for _, argument in ipairs(definition.arguments or {}) do
    local name = "\\fI" .. escape(argument.name) .. "\\fR"
    if argument.many or argument.rest then name = "[" .. name .. "...]"
    elseif argument.optional then name = "[" .. name .. "]" end
    words[#words + 1] = name
  end
  return table.concat(words, "\n")
end

local function head(name, version, summary)
  return {
    (".TH %s 1 \"\" \"moonfork %s\" \"moonfork\""):format(name:upper():gsub("%-", "\\-"), version),
    ".nh\n.ad l", -- names stay whole
    ".SH NAME",
    escape(name) .. " \\- " .. escape(summary),
  }
end

local function exit_codes(lines)
  lines[#lines + 1] = ".SH EXIT STATUS"
  for _, code in ipairs(cli.exit_codes) do
    lines[#lines + 1] = ".TP\n\\fB" .. escape(code[1]) .. "\\fR\n" .. escape(sentence(code[2]))
  end
end

local function paragraphs(lines, text)
  for paragraph in (text .. "\n\n"):gmatch("(.-)\n\n+") do
    lines[#lines + 1] = ".PP\n" .. escape(paragraph)
  end
end

--- page(version): moonfork(1).
function manual.page(version)
  local lines = head("moonfork", version, cli.about.summary)
  lines[#lines + 1] = ".SH SYNOPSIS\n.B moonfork\n.I COMMAND\n[\\fIOPTION\\fR...]\n[\\fIARGUMENT\\fR...]"
  lines[#lines + 1] = ".SH DESCRIPTION"
  paragraphs(lines, cli.about.description)
  lines[#lines + 1] = ".SH COMMANDS"
  for _, name in ipairs(cli.commands) do
    lines[#lines + 1] = (".TP\n.BR moonfork\\-%s (1)\n%s"):format(escape(name),
      escape(sentence(cli.definition(name).summary)))
  end
  lines[#lines + 1] = ".SH OPTIONS\n.TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\nShow help and exit; after a"
    .. " command, its help.\n.TP\n\\fB\\-\\-version\\fR\nPrint the version and exit."
  exit_codes(lines)
  lines[#lines + 1] = ".SH ENVIRONMENT"
  for _, variable in ipairs(cli.environment) do
    lines[#lines + 1] = ".TP\n.B " .. escape(variable[1]) .. "\n" .. escape(sentence(variable[2]))
  end
  return table.concat(lines, "\n") .. "\n"
end

--- command_page(name, version): moonfork-NAME(1).
function manual.command_page(name, version)
  local definition = cli.definition(name)
  local lines = head("moonfork-" .. name, version, definition.summary)
  lines[#lines + 1] = ".SH SYNOPSIS\n" .. usage_of(definition)
  lines[#lines + 1] = ".SH DESCRIPTION"
  paragraphs(lines, definition.description or sentence(definition.summary))
  if definition.arguments then
    lines[#lines + 1] = ".SH ARGUMENTS"
    for _, argument in ipairs(definition.arguments) do
      lines[#lines + 1] = (".TP\n.I %s\n%s"):format(escape(argument.name),
        escape(sentence(argument.help)))
    end
  end
  lines[#lines + 1] = ".SH OPTIONS"
  for _, option in ipairs(definition.options or {}) do
    local help = sentence(option.help)
    if option.default then help = ("%s Default: %s."):format(help, option.default) end
    lines[#lines + 1] = ".TP\n" .. names_of(option) .. "\n" .. escape(help)
  end
  lines[#lines + 1] = ".TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\nShow help and exit."
  for _, note in ipairs(definition.notes or {}) do
    lines[#lines + 1] = ".SH " .. escape(note[1]:upper())
    paragraphs(lines, note[2])
  end
  exit_codes(lines)
  if definition.examples then
    lines[#lines + 1] = ".SH EXAMPLES"
    for _, example in ipairs(definition.examples) do
      lines[#lines + 1] = ".PP\n" .. escape(example[2]:gsub("^%l", string.upper)) .. ":\n.PP\n.nf\n"
        .. escape("    " .. example[1]:gsub("\n", "\n    ")) .. "\n.fi"
    end
  end
  lines[#lines + 1] = ".SH SEE ALSO\n.BR moonfork (1)"
  return table.concat(lines, "\n") .. "\n"
end

-- As a program: what meson calls.
if arg and arg[0] and arg[0]:match "manual%.lua$" then
  local what, which, version = arg[1], arg[2], arg[3]
  if what == "page" and which == "moonfork" then io.write(manual.page(version))
  elseif what == "page" then io.write(manual.command_page(which:gsub("^moonfork%-", ""), version))
  elseif what == "completion" then io.write(require("moonfork.cli.completion")[which](cli))
  else for _, name in ipairs(cli.commands) do print(name) end end
end

return manual
