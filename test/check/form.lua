-- form.lua: the form of the text files of the tree: no trailing blanks, no tabs where two
-- spaces belong, no carriage returns, a newline at the end. Lines are meant to have 90
-- columns at most; the check is lenient up to 100, in Lua up to what .luacheckrc says. Runs
-- alone; reads what git knows, or every file where there is no git.

local WIDTH = { c = 100, h = 100, lua = 120, sh = 100 }
local TEXT = { md = true, txt = true, build = true, rockspec = true, ini = true, yml = true }
for extension in pairs(WIDTH) do TEXT[extension] = true end

local check = dofile "test/check/report.lua"
local complain = check.complain

local LIST = [[
  git ls-files --cached --others --exclude-standard 2>/dev/null ||
  find . -type f -not -path './build*' -not -path './.git/*' | sed 's,^./,,']]

local function tracked()
  local pipe = assert(io.popen(LIST, "r"))
  local list = {}
  for path in pipe:lines() do list[#list + 1] = path end
  pipe:close()
  assert(#list > 0, "no files found")
  return list
end

-- The columns of a line of UTF-8.
local function columns(line)
  return utf8.len(line) or #line
end

local function check_line(path, number, line, width)
  if line:find("%s$") then complain("%s:%d: blanks at the end", path, number) end
  if line:find("\t", 1, true) then complain("%s:%d: a tab", path, number) end
  if width and columns(line) > width then
    complain("%s:%d: %d columns, more than %d", path, number, columns(line), width)
  end
end

local function check_file(path, extension)
  local text = check.find(path)
  if not text then return end -- deleted, not yet committed
  if text == "" then return complain("%s: empty", path) end
  if text:sub(-1) ~= "\n" then complain("%s: no newline at the end", path) end
  if text:find("\n\n$") then complain("%s: an empty line at the end", path) end
  local number = 0
  for line in text:gmatch("([^\n]*)\n") do
    number = number + 1
    check_line(path, number, line, WIDTH[extension])
  end
end

for _, path in ipairs(tracked()) do
  local extension = path:match("%.(%w+)$")
  local binary = path:match("^test/data/") or path:match("^test/fuzz/corpus/")
  if not binary and (TEXT[extension] or path == "dev" or path == ".ci/run") then
    check_file(path, extension)
  end
end
check.done()
