-- docs.lua: the manual is whole. Every function of the public headers stands in
-- doc/c-api.md, every name a Lua program can call stands in doc/lua-api.md (asked of the
-- module itself, so it needs a build), every relative link of the Markdown files leads to a
-- file, with a heading where it names one, C programs in them compile, and Lua in them is
-- Lua; the programs of README.md are run, too.

local check = dofile "test/check/report.lua"
local complain, read = check.complain, check.find

local function page(path)
  local text = read(path)
  if not text then complain("%s is missing", path) end
  return text or ""
end

-- ---- C ----

-- Names with MF_API before them, and the typedefs and macros a user writes.
local function public_names(header)
  local text = assert(read(header), header):gsub("/%*.-%*/", "")
  local names = {}
  for declaration in text:gmatch("MF_API([^;]+);") do
    names[#names + 1] = declaration:match("(mf_[%w_]+)%s*%(")
  end
  for name in text:gmatch("\n}%s*(mf_[%w_]+);") do names[#names + 1] = name end
  for name in text:gmatch("typedef [^;{]*%(%*(mf_[%w_]+)%)") do names[#names + 1] = name end
  for name in text:gmatch("#define%s+(MF_[A-Z_]+_INIT)") do names[#names + 1] = name end
  for name in text:gmatch("\n%s*X%(([A-Z_]+),") do names[#names + 1] = "MF_E" .. name end
  assert(#names > 0, header .. ": no public names found")
  return names
end

local function check_header(header)
  local text = page("doc/c-api.md")
  for _, name in ipairs(public_names(header)) do
    if not text:find("%f[%w_]" .. name .. "%f[^%w_]") then
      complain("doc/c-api.md does not mention %s of %s", name, header)
    end
  end
end

-- The limits' names, which users write, on both pages and in the header.
local function check_limits()
  local macro = read("src/wire/proto.h"):match("#define PROTO_LIMITS(.-[^\\])\n")
  local n = 0
  for name in macro:gmatch('X%([A-Z]+, "(%l+)"%)') do
    n = n + 1
    for path, form in pairs { ["doc/c-api.md"] = '`"%s"`', ["doc/lua-api.md"] = "`%s`",
      ["include/moonfork.h"] = '"%s"' } do
      if not page(path):find(form:format(name), 1, true) then
        complain("%s does not mention the limit %s", path, name)
      end
    end
  end
  assert(n > 0, "no names of limits found")
end

-- ---- Lua ----

-- A name counts as documented when it stands behind a dot or a colon, or alone in code.
local function mentions(text, name)
  local plain = name:gsub("%p", "%%%0")
  return text:find("[%.:`]" .. plain .. "%f[^%w_]") ~= nil
end

local function check_names(text, what, names)
  for name in pairs(names) do
    if type(name) == "string" and not name:match("^_") and not mentions(text, name) then
      complain("doc/lua-api.md does not mention %s of %s", name, what)
    end
  end
end

local function methods(object)
  local index = (debug.getmetatable(object) or {}).__index -- a socket hides its metatable
  return type(index) == "table" and index or {}
end

local function check_lua()
  local ok, fork = pcall(require, "moonfork")
  if not ok then return complain("the module can't be loaded: %s", fork) end
  local text = page("doc/lua-api.md")
  check_names(text, "moonfork", fork)
  check_names(text, "moonfork.socket", fork.socket)
  local one, two = assert(fork.socket.pair())
  check_names(text, "a moonfork.socket", methods(one))
  one:close()
  two:close()
  local process = fork.new_exec()
  check_names(text, "a process", methods(process))
  process:close()
  check_names(text, "moonfork.clone", require "moonfork.clone")
end

-- The findings of the audit: the page has each, as the code prints it, and no other.
local function check_findings()
  local ok, core = pcall(require, "moonfork.load")
  if not ok then return end -- said above
  local kinds, seen = core.finding_kinds(), {}
  for name, severity, why, remedy in page("doc/doctor.md"):gmatch
    "\n| `([%l_-]+)` | (%l+) | [^|\n]+ | ([^|\n]+) | ([^|\n]+) |" do
    local kind = kinds[name]
    seen[name] = true
    if not kind then complain("doc/doctor.md has a finding %s, and the audit has none", name)
    elseif why ~= kind.why or remedy ~= kind.remedy then
      complain("doc/doctor.md says something else about the finding %s than the audit", name)
    elseif severity ~= (kind.severity == "refuses" and "error" or kind.severity) then
      complain("doc/doctor.md calls the finding %s of severity %s", name, severity)
    end
  end
  for name in pairs(kinds) do
    if not seen[name] then complain("doc/doctor.md does not have the finding %s", name) end
  end
end

-- ---- links ----

-- "## In the clone: `f`" -> "in-the-clone-f", as the usual renderers make them.
local function anchors(text)
  local set = {}
  for heading in ("\n" .. text):gmatch("\n#+ +([^\n]+)") do
    heading = heading:lower():gsub("[^%w%s_-]", ""):gsub(" ", "-")
    set[heading] = true
  end
  return set
end

local function check_link(path, target)
  if target:match("^%a[%w+.-]*:") then return end
  local file, anchor = target:match("^([^#]*)#?(.*)$")
  local full = path
  if file ~= "" then full = (path:match("^(.*/)") or "") .. file end
  local text = read(full)
  if not text and not os.rename(full, full) then
    return complain("%s links to %s, which does not exist", path, target)
  end
  if anchor ~= "" and text and not anchors(text)[anchor] then
    complain("%s links to %s, but there is no such heading", path, target)
  end
end

local function check_links()
  local pipe = assert(io.popen("find . -name '*.md' -not -path './build*' | sed 's,^./,,'"))
  for path in pipe:lines() do
    local text = (read(path) or ""):gsub("```.-```", "")
    for target in text:gmatch("%]%(([^)%s]+)%)") do check_link(path, target) end
  end
  pipe:close()
end

-- ---- code ----

-- Runs a command with text in a file, whose name it appends; gives what it printed, if wrong.
local function run_with(command, text, suffix)
  local path = os.tmpname()
  local named = path .. suffix
  local file = assert(io.open(named, "wb"))
  file:write(text)
  file:close()
  local pipe = assert(io.popen(command .. " " .. named .. " 2>&1", "r"))
  local output = pipe:read("a")
  local ok = pipe:close()
  os.remove(named)
  os.remove(path)
  return ok, output
end

local CC = "cc -std=gnu11 -Wall -Wextra -Wno-unused-parameter -Werror -fsyntax-only -Iinclude "
  .. "$(pkg-config --cflags lua5.4 libuv)"

local function check_c(path, code)
  if not code:find("int main", 1, true) then return end
  local ok, output = run_with(CC, code, ".c")
  if not ok then complain("%s: a C program does not compile:\n%s", path, output) end
end

local function check_chunk(path, code)
  local ok, message = load(code, "=code", "t")
  if not ok then complain("%s: %s in\n%s", path, message, code) end
end

local function check_code()
  local pipe = assert(io.popen("find . -name '*.md' -not -path './build*' | sed 's,^./,,'"))
  for path in pipe:lines() do
    for language, code in page(path):gmatch("```(%a+)\n(.-)```") do
      if language == "c" then check_c(path, code) end
      if language == "lua" then check_chunk(path, code) end
    end
  end
  pipe:close()
  local lines_of = {"%d\t%d+\n", "hello %a+ from %d+\n"} -- what the programs of README.md print, thrice
  local nprograms = 0
  for program in page("README.md"):gmatch("```lua\n(.-)```") do
    nprograms = nprograms + 1
    local ok, output = run_with("timeout 20 lua5.4", program, ".lua")
    local _, nlines = output:gsub(lines_of[nprograms] or "", "")
    if not ok or nlines ~= 3 then
      complain("program %d of README.md says:\n%s", nprograms, output)
    end
  end
  if nprograms ~= #lines_of then complain("README.md has %d programs", nprograms) end
end

check_header("include/moonfork.h")
check_header("include/moonfork/template.h")
check_limits()
check_lua()
check_findings()
check_links()
check_code()
check.done()
