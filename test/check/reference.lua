-- reference.lua: the reference pages name what exists, all of it, and nothing else. C: every field,
-- constant and function of the headers stands in doc/c-api.md, and every name there is in a header.
-- Lua: every option stands in doc/lua-api.md, and every function there can be called. Error codes,
-- events of workers, environment variables, the options of modules and of `moonfork serve` likewise. Every page
-- of doc/ is in its index. Needs a build.

local check = dofile "test/check/report.lua"
local complain, read = check.complain, check.read
package.path = "test/help/?.lua;" .. package.path

local function set_of(text, pattern)
  local set, n = {}, 0
  for name in text:gmatch(pattern) do
    if not set[name] then n = n + 1 end
    set[name] = true
  end
  assert(n > 0, "nothing is like " .. pattern)
  return set
end

local function sorted(set)
  local list = {}
  for name in pairs(set) do list[#list + 1] = name end
  table.sort(list)
  return list
end

-- Both directions: what there is, and what the page says there is.
local function same(page, what, there, told)
  for _, name in ipairs(sorted(there)) do
    if not told[name] then complain("%s lacks the %s %s", page, what, name) end
  end
  for _, name in ipairs(sorted(told)) do
    if not there[name] then complain("%s has the %s %s, which does not exist", page, what, name) end
  end
end

local function files(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "a"
  pipe:close()
  local list = {}
  for path in text:gmatch "[^\n]+" do list[#list + 1] = path end
  assert(#list > 0, command)
  return list
end

-- ---- C ----

local HEADERS = {"include/moonfork.h", "include/moonfork/nats.h", "include/moonfork/template.h"}
-- Macros for the header's own use, and for preprocessors.
local INTERNAL = {MF_API = true, MF_ERROR_MAP = true, MF_ERROR_ENUM = true}

local function code_of(header)
  return (read(header):gsub("/%*.-%*/", ""))
end

local function fields_of(text)
  local list = {}
  for body, name in text:gmatch "typedef struct mf_[%w_]+ (%b{})%s*(mf_[%w_]+);" do
    for declaration in body:sub(2, -2):gmatch "[^;]+" do
      local names = declaration:match "%(%*([%w_]+)%)" or declaration:gsub("^%s*[%w_]+[%s%*]", ""):gsub("%b[]", "")
      for field in names:gmatch "[%a_][%w_]*%f[,%s\0]" do
        list[#list + 1] = {field, name}
      end
      if declaration:find "%(%*" then list[#list + 1] = {declaration:match "%(%*([%w_]+)%)", name} end
    end
  end
  assert(#list > 50, "too few fields of structures")
  return list
end

local KEYWORDS = {}
for word in ("const char void int unsigned long size_t uint64_t struct enum double"):gmatch "%S+" do
  KEYWORDS[word] = true
end

local function check_c()
  local page, all = read "doc/c-api.md", ""
  for _, header in ipairs(HEADERS) do all = all .. code_of(header) end
  for _, field in ipairs(fields_of(all)) do
    local name = field[1]
    if not KEYWORDS[name] and not name:match "^mf_" and not page:find("%f[%w_]" .. name .. "%f[^%w_]") then
      complain("doc/c-api.md lacks the field %s of %s", name, field[2])
    end
  end
  local there, told = set_of(all, "%f[%w_]MF_[A-Z0-9_]+"), set_of(page, "%f[%w_]MF_[A-Z0-9_]+")
  for name in all:gmatch "X%(([A-Z_]+), %-%d+," do there["MF_E" .. name] = true end
  for name in pairs(INTERNAL) do there[name] = nil end
  for name in pairs(there) do
    if name:find "_H$" then there[name] = nil end
  end
  told.MF_E, there.MF_E = nil, nil -- "the MF_E... names"
  same("doc/c-api.md", "constant", there, told)
  for name in pairs(set_of(page, "%f[%w_]mf_[%w_]+")) do
    if not all:find("%f[%w_]" .. name .. "%f[^%w_]") then
      complain("doc/c-api.md has %s, which is in no header", name)
    end
  end
end

-- ---- error codes ----

local function check_codes()
  local codes, lua_codes = {}, {}
  for name in read("include/moonfork.h"):gmatch "X%(([A-Z_]+), %-%d+," do
    local shown = name == "INVAL" and "EINVAL" or name
    codes[shown] = true
    lua_codes[shown] = name ~= "STATE" and name ~= "FORKED" or nil
  end
  local page = read "doc/troubleshooting.md"
  same("doc/troubleshooting.md", "heading of the code", codes, set_of(page, "\n## ([A-Z_]+)\n"))
  for section, text in page:gmatch "\n## ([A-Z_]+)\n(.-)%f[\n]\n%f[#]" do
    for _, part in ipairs{"**Meaning.**", "**Usual causes", "**What to do.**"} do
      if not text:find(part, 1, true) then complain("doc/troubleshooting.md: %s lacks %s", section, part) end
    end
  end
  local table_of = read("doc/lua-api.md"):match "| code | when |(.-)\n\n"
  same("doc/lua-api.md", "code", lua_codes, set_of(table_of, "\n| `([A-Z_]+)`"))
  for name in pairs(codes) do
    if not read("doc/c-api.md"):find("`" .. name .. "`", 1, true) then
      complain("doc/c-api.md lacks the name %s", name)
    end
  end
end

-- ---- Lua ----

local OPTIONS = {"moonfork.options", "moonfork.exec_options", "moonfork.rpc_options",
  "moonfork.pool_options", "moonfork.map_options"}

local function annotated()
  return require("annotations").read(files "ls lua/moonfork/meta.lua lua/moonfork/meta/*.lua")
end

-- test/proc/annotations.lua compares the annotations with what the module takes.
local function check_options()
  local types = annotated()
  local page, known = read "doc/lua-api.md", {}
  for _, class in ipairs(OPTIONS) do
    for _, name in ipairs(require("annotations").names(types, class)) do
      known[name] = true
      if not page:find("[`%s{,]" .. name .. "[`%s=]") or not page:find("`[^`]*%f[%w_]" .. name .. "%f[^%w_][^`]*`") then
        complain("doc/lua-api.md lacks the option %s of %s", name, class)
      end
    end
  end
  for head, body in page:gmatch "\n(| option[^\n]*|)\n|[^\n]*\n(.-)\n\n" do
    for row in body:gmatch "[^\n]+" do
      for name in row:match("^| (.-) |"):gmatch "`([%l_]+)`" do
        if not known[name] then complain("doc/lua-api.md has the option %s (%s), which does not exist", name, head) end
      end
    end
  end
end

-- `fork.name`, `clone.name`, `fork.socket.name`, and methods behind a colon, in code only.
local function check_functions()
  local ok, fork = pcall(require, "moonfork")
  if not ok then return complain("the module can't be loaded: %s", fork) end
  local types = annotated()
  local function names(class)
    local set = {}
    for _, name in ipairs(require("annotations").names(types, class)) do set[name] = true end
    return set
  end
  local socket, clone, process, pool, rpc = fork.socket.pair(), require "moonfork.clone",
    names "moonfork.process", names "moonfork.pool", names "moonfork.rpc"
  local owners = {
    {"%f[%w]fork%.([%l_]+)%f[^%w_]", fork, "fork."}, {"fork%.socket%.([%l_]+)", fork.socket, "fork.socket."},
    {"%f[%w]clone%.([%l_]+)", clone, "clone."}, {"%f[%w]process:([%l_]+)", process, "process:"},
    {"%f[%w]p:([%l_]+)", process, "p:"}, {"%f[%w]pool:([%l_]+)", pool, "pool:"},
    {"%f[%w.]rpc:([%l_]+)", rpc, "rpc:"}, {"%f[%w]socket:([%l_]+)", socket, "socket:"},
  }
  for _, path in ipairs(files "ls README.md doc/*.md") do
    local pieces = {}
    local text = read(path):gsub("```.-```", function(block) pieces[#pieces + 1] = block return "" end)
    for piece in text:gmatch "`[^`]+`" do pieces[#pieces + 1] = piece end
    for _, code in ipairs(pieces) do
      for _, owner in ipairs(owners) do
        for name in code:gmatch(owner[1]) do
          if owner[2][name] == nil and name ~= "c" and not (path:find "other%-lua" and owner[3] == "fork.") then
            complain("%s: %s%s does not exist", path, owner[3], name)
          end
        end
      end
    end
  end
  socket:close()
end

-- Tables of options that modules check by a set of names.
local function check_modules()
  local modules = {
    {"lua/moonfork/lines.lua", "doc/lines.md", "| option | meaning |"},
    {"lua/moonfork/server.lua", "doc/serve.md", "| option of `server.new` | meaning |"},
  }
  for _, module in ipairs(modules) do
    local call = read(module[1]):match "local valid = check%.set(%b())"
    assert(call, module[1] .. " has no set of options")
    local there, told = {}, {}
    for text in call:gmatch '"([^"]*)"' do
      for name in text:gmatch "%S+" do there[name] = true end
    end
    local page = read(module[2])
    local at = assert(select(2, page:find(module[3], 1, true)), module[2] .. " has no table of options")
    for row in page:sub(at, page:find("\n\n", at, true)):gmatch "\n| ([^|]*) |" do
      for name in row:gmatch "`([%l_]+)`" do told[name] = true end
    end
    same(module[2], "option", there, told)
  end
end

-- ---- events, variables, the command ----

local function check_events()
  local told = set_of(read("doc/rpc.md"):match "\n| event | first word |.-\n\n", '"(%l+)"')
  local there = {}
  for name in read("include/moonfork.h"):gmatch "%f[%w]MF_WORKER_(%u+)" do there[name:lower()] = true end
  same("doc/rpc.md", "event of workers", there, told)
end

-- Variables of a running program; those of tests and builds are not users' business.
local function check_variables()
  local there = {}
  for _, path in ipairs(files "find src lua -name '*.[ch]' -o -name '*.lua'") do
    local text = read(path):gsub("%-%-[^\n]*", "")
    for name in text:gmatch 'getenv%s*%(?%s*"([A-Z_]+)"' do there[name] = true end
  end
  local told = set_of(read("doc/lua-api.md"):match "\n## Environment variables\n(.*)", "\n| `([A-Z_`, ]+)` |")
  local names = {}
  for cell in pairs(told) do
    for name in cell:gmatch "[A-Z_]+" do names[name] = true end
  end
  for _, name in ipairs{"LUA_PATH", "LUA_CPATH"} do there[name] = true end -- Lua's own
  there.MOONFORK_BUILD, there.MOONFORK_SOURCE = nil, nil
  same("doc/lua-api.md", "environment variable", there, names)
end

local function check_command()
  package.path = "lua/?.lua;lua/?/init.lua;" .. package.path
  local cli = require "moonfork.cli"
  local known = set_of("--help --version", "%-%-%l+")
  for _, name in ipairs(cli.commands) do
    for _, option in ipairs(cli.definition(name).options or {}) do
      if option.long then known[option.long] = true end
      local pages = read "doc/serve.md" .. read "doc/deployment.md"
      if name == "serve" and not pages:find(option.long, 1, true)
        and not (option.short and pages:find("%" .. option.short .. "%f[%W]")) then
        complain("neither doc/serve.md nor doc/deployment.md has the option %s of moonfork serve", option.long)
      end
    end
  end
  for _, path in ipairs(files "ls README.md doc/*.md") do
    for line in read(path):gmatch "[^\n]*moonfork %l+ [^\n]*" do
      for command, rest in line:gmatch "%f[%w]moonfork (%l+) ([^`|#]*)" do
        local is_command = false
        for _, name in ipairs(cli.commands) do is_command = is_command or name == command end
        for option in (is_command and rest or ""):gmatch "%f[%S](%-%-%l[%l-]*)" do
          if not known[option] then complain("%s: moonfork %s has no option %s", path, command, option) end
        end
      end
    end
  end
end

local function check_exit_codes()
  local there, told = {}, {}
  for _, row in ipairs(require "moonfork.cli".exit_codes) do
    for code in row[1]:gmatch "%d+" do there[code] = true end
  end
  local page = read "doc/troubleshooting.md"
  for code in page:match "\n## Exit codes of the program\n(.-)\n## ":gmatch "\n| (%d+) |" do told[code] = true end
  same("doc/troubleshooting.md", "exit code", there, told)
end

-- ---- the index ----

local function check_index()
  local index = read "doc/README.md"
  for _, path in ipairs(files "ls doc/*.md") do
    local name = path:match "[^/]+$"
    if name ~= "README.md" and not index:find("](" .. name .. ")", 1, true) then
      complain("doc/README.md has no link to %s", name)
    end
  end
end

check_c()
check_codes()
check_options()
check_functions()
check_modules()
check_events()
check_variables()
check_command()
check_exit_codes()
check_index()
check.done()
