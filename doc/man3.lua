-- man3.lua: moonfork(3), the manual page of the C library, from doc/c-api.md. moonfork is built with it:
--
--   lua man3.lua C-API.md VERSION >moonfork.3
--
-- The page is an overview: how to compile, a first program, the rules, every function with its
-- meaning, the error codes. Checks compare c-api.md with the headers, and this page with both, so it
-- can't grow old.

local path, version = arg[1], arg[2]
local file = assert(io.open(path, "rb"))
local text = "\n" .. file:read "a" .. "\n## "
file:close()

local out = {}
local function say(...) out[#out + 1] = table.concat {...} end

-- For roff: no line begins a request, and a minus is one that can be copied.
local function escape(plain)
  plain = plain:gsub("\\", "\\e"):gsub("%-", "\\-")
  return (("\n" .. plain):gsub("\n([.'])", "\n\\&%1"):sub(2))
end

-- Markdown as a line of roff: links keep their text, code becomes bold.
local function inline(markdown)
  markdown = markdown:gsub("%s*\n%s*", " "):gsub("%*%*", ""):gsub("%*(%a+)%*", "%1"):gsub("%[([^%]]+)%]%([^)]*%)", "%1")
  return (escape(markdown):gsub("`([^`]+)`", "\\fB%1\\fR"))
end

local function sentence(markdown)
  markdown = markdown:gsub("%s+$", "")
  return inline((markdown:gsub("^%l", string.upper))) .. (markdown:find "[.:!]$" and "" or ".")
end

local function section(title)
  local at = select(2, text:find("\n## " .. title .. "\n", 1, true))
  assert(at, "no section " .. title .. " in " .. path)
  return text:sub(at, text:find("\n## ", at, true))
end

local function preformatted(code)
  say(".PP\n.nf\n", (escape(code:gsub("%s+$", ""))), "\n.fi")
end

-- Functions stand in tables, in the first cell, or begin a paragraph with their declaration.
local function functions(title)
  say(".SS ", inline(title))
  local n = 0
  local function tell(declaration, meaning)
    n = n + 1
    say(".TP\n\\fB", escape(declaration), ";\\fR\n", sentence(meaning))
  end
  for block in (section(title):gsub("```.-```", "") .. "\n\n"):gmatch "(.-)\n\n+" do
    local declaration, meaning = block:match "^\n*`([^`\n]*mf_[%w_]+%([^`]*%))`%s+(.*)$"
    if declaration and not declaration:find "^typedef" then tell(declaration, meaning) end
    for cell, rest in ("\n" .. block .. "\n"):gmatch "\n| `([^`]*mf_[%w_]+%([^`]*%))` | (.-) |%f[\n]" do
      tell(cell, rest)
    end
  end
  assert(n > 0, "no functions in the section " .. title)
end

say('.TH moonfork 3 "" "moonfork ', version, '" "moonfork"')
say ".nh\n.ad l" -- names stay whole
say ".SH NAME\nmoonfork \\- template processes for Lua, from C"
say ".SH SYNOPSIS\n.nf\n.B #include <moonfork.h>\n.B #include <moonfork/template.h>"
for command in text:match "\n```\n(cc .-)```":gmatch "[^\n]+" do
  say(".PP\n\\fB", escape(command), "\\fR")
end
say ".fi\n.SH DESCRIPTION"
say [[
The library starts
.IR templates ,
processes with a Lua interpreter that have loaded modules. A template forks
.IR clones ,
each in the time of a fork, and each clone runs one named Lua function, with a socket to the program.
The program needs no Lua; everything completes on a libuv loop.]]
say ".SS Rules"
for rule in section "Rules":gsub("\n%- ", "\1"):gmatch "\1([^\1]+)" do
  say(".IP \\(bu 2\n", sentence(rule))
end
say ".SS Options"
say(sentence(section "Options":match "^\n+(.-)\n\n"))
say ".SH FUNCTIONS"
for _, title in ipairs {"Make", "Prepare", "Finish", "Ask", "End", "Calls to a process: rpc",
  "Calls to many: pool", "Errors", "What is going on", "Programs that are templates"} do
  functions(title)
end
say ".SH ERRORS\nA function returns 0, or one of these, or a negated errno."
say "A callback gets them as \\fBerror\\->code\\fR."
for code, meaning in section "Errors":gmatch "\n| `(MF_E[A-Z_]+)` | `[A-Z_]+` | (.-) |%f[\n]" do
  say(".TP\n.B ", code, "\n", sentence(meaning))
end
say ".SH ENVIRONMENT"
say ".TP\n.B MOONFORK_TEMPLATE\nThe template program, instead of the installed one."
say ".TP\n.B MOONFORK_TRACE\nA file for a timeline of all processes and calls."
say ".SH EXAMPLES"
preformatted(section "A host in one page":match "```c\n(.-)```")
say ".SH SEE ALSO\n.BR moonfork (1)"
say ".PP\nThe options and structures are described in \\fBdoc/c\\-api.md\\fR of the sources,"
say "complete programs are in \\fBdoc/c\\-cookbook.md\\fR."

io.write(table.concat(out, "\n"), "\n")
