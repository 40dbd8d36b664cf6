-- layers.lua: who may include whom. The table is the one in doc/design.md ("Layers"); this
-- program reads it there, so the page can't grow old, and looks at every #include below
-- src/. A row's third column lists folders (`base`, or one header of them: `os/fd`), the
-- words `lua`, `libuv` and `moonfork.h`, and single headers; what stands in parentheses or
-- after "never" is for the reader. A folder may always use itself.

local DESIGN = "doc/design.md"

-- What a word of the table means for <system> includes.
local SYSTEM = {
  ["lua.h"] = "lua", ["lauxlib.h"] = "lua", ["lualib.h"] = "lua", ["luaconf.h"] = "lua",
  ["uv.h"] = "libuv", ["msgpack.h"] = "msgpack", ["moonfork.h"] = "moonfork.h",
  ["moonfork/template.h"] = "moonfork/template.h",
}

local check = dofile "test/check/report.lua"
local complain, read = check.complain, check.read

-- "base, os, `os/fd`; never lua" -> { base = true, os = true, ["os/fd"] = true }
local function parse_words(column)
  local words = {}
  column = column:gsub("%b()", ""):gsub(";?%s*never.*$", "")
  for word in column:gmatch("[^,;]+") do
    word = word:gsub("`", ""):match("^%s*(.-)%s*$")
    word = word:gsub("^src/", "")
    words[word] = true
  end
  return words
end

-- { ["src/wire"] = words } from the page.
local function parse_table()
  local rows, inside = {}, false
  for line in read(DESIGN):gmatch("[^\n]*") do
    if line:match("^## ") then inside = line:match("^## Layers") ~= nil end
    local folder, column = line:match("^| `(src/%w+)` | [^|]* | ([^|]*) |$")
    if inside and folder then rows[folder] = parse_words(column) end
  end
  assert(next(rows), DESIGN .. ": no table of layers")
  return rows
end

-- "os/fd.h" is allowed by "os", "os/fd" and "os/fd.h".
local function allows(words, header)
  local folder = header:match("^([^/]+)/")
  local stem = header:gsub("%.h$", "")
  return words[header] or words[stem] or (folder and words[folder])
end

local function check_include(path, own, words, header, system)
  if not system then
    if header:match("^" .. own .. "/") or allows(words, header) then return end
    return complain("%s includes %s, which its layer may not", path, header)
  end
  local word = SYSTEM[header] or (header:match("^uv/") and "libuv")
  if not word or words[word] then return end
  -- a program that is a template implements that header; the parent implements its own
  if own == "template" and word == "moonfork/template.h" then return end
  if own == "parent" and word == "moonfork.h" then return end
  complain("%s includes <%s>, which its layer may not", path, header)
end

local function check_folder(folder, words)
  local own = folder:match("^src/(%w+)$")
  local pipe = assert(io.popen("find " .. folder .. " -name '*.[ch]' | sort", "r"))
  for path in pipe:lines() do
    for line in read(path):gmatch("[^\n]*") do
      local open, header = line:match('^%s*#%s*include%s*([<"])([^>"]+)[>"]')
      if header then check_include(path, own, words, header, open == "<") end
    end
  end
  pipe:close()
end

-- The two rules that matter most, whatever the page says.
local function check_foundations(rows)
  if rows["src/parent"].lua then complain("%s lets src/parent use lua", DESIGN) end
  if rows["src/template"].libuv then complain("%s lets src/template use libuv", DESIGN) end
end

local rows = parse_table()
check_foundations(rows)
local pipe = assert(io.popen("find src -mindepth 1 -maxdepth 1 -type d | sort", "r"))
for folder in pipe:lines() do
  if rows[folder] then
    check_folder(folder, rows[folder])
  elseif io.popen("ls -A " .. folder):read("l") then
    complain("%s has no row in the table of %s", folder, DESIGN)
  end
end
pipe:close()
check.done()
