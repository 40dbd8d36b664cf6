-- Which interpreters may load the module. Others get one sentence that says what is wrong,
-- and no "undefined symbol" of the dynamic linker's.
local story = require "story"
local fork = require "moonfork"

local build = os.getenv "MOONFORK_BUILD"
local loader = assert(package.searchpath("moonfork.load", package.path))
local lua = loader:match "^(.*)/moonfork/load%.lua$"

local function exists(path)
  local f = io.open(path)
  if f then f:close() end
  return f ~= nil
end

-- What a program says that requires the module: its status, and both streams. files: the
-- folder of the Lua files.
local function required(t, program, module, files)
  files = files or lua
  local script = t:file("main.lua", ("require %q\n"):format(module))
  local out = t:file "out"
  local _, _, code = os.execute(("env -i PATH=\"$PATH\" LUA_PATH='%s/?.lua;%s/?/init.lua;;' " ..
    "LUA_CPATH='%s/?.so' %s %s >%s 2>&1 </dev/null"):format(files, files, build, program, script, out))
  return code, t.read(out)
end

local function is_there(program)
  return os.execute(("command -v %s >/dev/null 2>&1"):format(program)) == true
end

for _, row in ipairs {
  { "lua5.1", "Lua 5%.1" }, { "lua5.2", "Lua 5%.2" }, { "lua5.3", "Lua 5%.3" },
  { "lua5.5", "Lua 5%.5" }, { "luajit", "LuaJIT 2" },
} do
  local program, name = row[1], row[2]
  story.test(program .. " is told which Lua is needed", function(t)
    if not is_there(program) then t.skip(program .. " is not installed") end
    for _, module in ipairs { "moonfork", "moonfork.early", "moonfork.luv", "moonfork.clone",
                              "moonfork.rpc", "moonfork.pool" } do
      local code, text = required(t, program, module)
      t.eq(code, 1, text)
      t.match(text, "moonfork needs Lua 5%.4, and this interpreter is " .. name)
      if name ~= "Lua 5%.5" then t.match(text, 'or use require "moonfork%.ffi"') end
      t.ok(not text:find "undefined symbol", text)
    end
  end)
end

story.test("an interpreter without exported symbols is told what is missing", function(t)
  local program = build .. "/test/help/closed_lua"
  if not exists(program) then t.skip "there is no static Lua here" end
  for _, module in ipairs { "moonfork", "moonfork.early", "moonfork.clone" } do
    local code, text = required(t, program, module)
    t.eq(code, 1, text)
    t.match(text, "this interpreter does not export Lua's C functions %(lua%a*_%w+%)")
    t.match(text, "%-Wl,%-E")
    t.ok(not text:find "undefined symbol", text)
  end
end)

story.test("Lua files of another version are told from their C part", function(t)
  if story.is_sanitized then t.skip "the sanitizer has to be loaded first" end
  local folder = t:tmp() .. "/files"
  assert(os.execute(("mkdir -p %s && cp -R %s/moonfork %s/"):format(folder, lua, folder)))
  local path = folder .. "/moonfork/load.lua"
  local text = t.read(path):gsub('VERSION = "[%d.]+"', 'VERSION = "99.0.1"')
  local f = assert(io.open(path, "w"))
  f:write(text)
  f:close()
  local code, said = required(t, "lua5.4", "moonfork", folder)
  t.eq(code, 1, said)
  t.match(said, "the Lua files in package.path are of moonfork 99%.0%.1, and %S*core%.so is of moonfork ")
end)

story.test("a template program refuses the module of another build", function(t)
  local socket = t.got(fork.new():eval([[
    function f(socket)
      debug.getregistry()["moonfork.build"] = "moonfork 99.0.1 for Lua 5.4.4"
      socket:write(select(2, pcall(require, "moonfork")))
    end
  ]]):run "f")
  local text = t.got(socket:read "a")
  t.match(text, "the module moonfork%.core is moonfork %S+ for Lua 5%.4%.%d+, and the template " ..
    "program that loads it is moonfork 99%.0%.1 for Lua 5%.4%.4")
  socket:close()
  socket = t.got(fork.new():eval([[
    function f(socket) socket:write(require("moonfork")._VERSION) end
  ]]):run "f")
  t.eq(socket:read "a", fork._VERSION)
  socket:close()
end)

story.done()
