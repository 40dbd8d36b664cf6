-- Two versions of moonfork on one machine: parts of both that meet by a wrong path say so, and name
-- both versions and where each lies. The second version is made of the first: its version is
-- replaced, in the Lua files as text, in what is compiled byte by byte.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit
story.census = false

local build, source = os.getenv "MOONFORK_BUILD", os.getenv "MOONFORK_SOURCE"
local OWN = fork._VERSION:match "%S+$"
local OTHER = OWN:gsub("^%d", function(digit) return tostring((digit + 1) % 10) end)

local function pattern(text)
  return (text:gsub("%p", "%%%0"))
end

local function exists(path)
  local file = io.open(path, "rb")
  return file and file:close()
end

-- A copy of a file, of the other version.
local function copy(from, to)
  local text = assert(assert(io.open(from, "rb")):read "a")
  local replaced, n = text:gsub(pattern(OWN), OTHER)
  assert(n > 0, from)
  local file = assert(io.open(to, "wb"))
  assert(file:write(replaced))
  assert(file:close())
  kit.chmod(to, tonumber("755", 8))
end

-- Folders of the other version: ROOT/lua with the Lua files, ROOT/c with the compiled ones.
local function other_version(t)
  local root = t:tmp() .. "/other"
  assert(os.execute(("mkdir -p '%s/lua' '%s/c/moonfork' && cp -R '%s/lua/moonfork' '%s/lua/'"):format(root, root,
    source, root)))
  for _, name in ipairs { "load", "ffi_core" } do
    copy(("%s/lua/moonfork/%s.lua"):format(source, name), ("%s/lua/moonfork/%s.lua"):format(root, name))
  end
  for _, name in ipairs { "core", "serve_core", "http_core", "ffi51", "ffi52", "ffi53" } do
    local from = ("%s/moonfork/%s.so"):format(build, name)
    if exists(from) then copy(from, ("%s/c/moonfork/%s.so"):format(root, name)) end
  end
  return root
end

-- What an interpreter prints with these folders of Lua and C modules.
local function run(t, interpreter, lua_folders, c_folders, code, env)
  if story.is_sanitized then t.skip "the sanitizer has to be loaded first" end
  local path, cpath = {}, {}
  for _, folder in ipairs(lua_folders) do
    path[#path + 1] = folder .. "/?.lua;" .. folder .. "/?/init.lua"
  end
  for _, folder in ipairs(c_folders) do cpath[#cpath + 1] = folder .. "/?.so" end
  local script = t:file("script.lua", code)
  local pipe = assert(io.popen(("env -u LUA_PATH_5_4 -u LUA_CPATH_5_4 LUA_PATH='%s' LUA_CPATH='%s' %s %s '%s' 2>&1")
    :format(table.concat(path, ";"), table.concat(cpath, ";"), env or "", interpreter, script)))
  local said = pipe:read "a"
  pipe:close()
  return said
end

-- Both versions, each beside its own path.
local function names(t, said, one, one_version, two, two_version)
  t.match(said, pattern(one))
  t.match(said, pattern(two))
  t.match(said, "moonfork " .. pattern(one_version))
  t.match(said, "moonfork " .. pattern(two_version))
  t.match(said, "both have to be of one")
  t.ok(not said:find("traceback", 1, true) or said:find "^lua", said)
end

local lua, ours = source .. "/lua", build

story.test("Lua files and their C part", function(t)
  local root = other_version(t)
  local other, c = root .. "/lua", root .. "/c"
  names(t, run(t, "lua5.4", { other }, { ours }, 'require "moonfork"'), other .. "/moonfork/load.lua", OTHER,
    ours .. "/moonfork/core.so", OWN)
  names(t, run(t, "lua5.4", { lua }, { c }, 'require "moonfork"'), lua .. "/moonfork/load.lua", OWN,
    c .. "/moonfork/core.so", OTHER)
  t.eq(run(t, "lua5.4", { other }, { c }, 'io.write(require("moonfork")._VERSION)'), "moonfork " .. OTHER)
end)

story.test("a Lua file that only the other version has", function(t)
  local root = other_version(t)
  local first = t:tmp() .. "/first"
  assert(os.execute(("mkdir -p '%s' && cp -R '%s/moonfork' '%s/'"):format(first, lua, first)))
  for _, name in ipairs { "server", "lines", "luv", "early", "doctor", "status" } do
    os.remove(("%s/moonfork/%s.lua"):format(first, name))
    names(t, run(t, "lua5.4", { first, root .. "/lua" }, { ours },
      ('require "moonfork"\nrequire "moonfork.%s"'):format(name)), first .. "/moonfork/load.lua", OWN,
      ("%s/lua/moonfork/%s.lua"):format(root, name), OTHER)
  end
  t.eq(run(t, "lua5.4", { first, lua }, { ours }, -- of one version, they may lie in two places
    'io.write(require("moonfork.server") and require("moonfork")._VERSION)'), "moonfork " .. OWN)
end)

story.test("a C part that is asked for later", function(t)
  local root = other_version(t)
  local first = t:tmp() .. "/first"
  assert(os.execute(("mkdir -p '%s/moonfork' && cp '%s/moonfork/core.so' '%s/moonfork/'"):format(first, ours, first)))
  names(t, run(t, "lua5.4", { lua }, { first, root .. "/c" }, 'require "moonfork.server"'),
    lua .. "/moonfork/load.lua", OWN, root .. "/c/moonfork/serve_core.so", OTHER)
end)

story.test("module and template program", { new_template = true }, function(t)
  local path = t:tmp() .. "/moonfork-template"
  copy(os.getenv "MOONFORK_TEMPLATE", path)
  local _, err = fork.new_exec { program = path }:run "type"
  t.error(err, "TEMPLATE_START")
  names(t, err.message, path, OTHER, "core.so", OWN)
end)

story.test("the program and its modules", function(t)
  local path = t:tmp() .. "/moonfork"
  copy(build .. "/src/program/moonfork", path)
  local paths = ("%s/?.lua;%s/?/init.lua;;"):format(lua, lua)
  for _, words in ipairs { "--version", "run type" } do
    local pipe = assert(io.popen(("LUA_PATH_5_4='%s' LUA_CPATH_5_4='%s/?.so' '%s' %s 2>&1 </dev/null"):format(paths,
      ours, path, words)))
    local said = pipe:read "a"
    pipe:close()
    names(t, said, path, OTHER, lua .. "/moonfork/load.lua", OWN)
    t.eq(select(2, said:gsub("\n", "\n")), 1, said)
  end
end)

story.test("moonfork.ffi, its C part and the library", function(t)
  local root = other_version(t)
  local library = t:tmp() .. "/libmoonfork.so.0"
  copy(os.getenv "MOONFORK_LIBRARY", library)
  local tried = 0
  for interpreter, part in pairs { ["lua5.1"] = "ffi51", ["lua5.2"] = "ffi52", ["lua5.3"] = "ffi53", luajit = false } do
    if os.execute(("command -v %s >/dev/null"):format(interpreter)) and
       (not part or exists(("%s/moonfork/%s.so"):format(ours, part))) then
      tried = tried + 1
      names(t, run(t, interpreter, { root .. "/lua" }, { ours }, 'require "moonfork.ffi"'),
        root .. "/lua/moonfork/ffi_core.lua", OTHER, part and part .. ".so" or "libmoonfork.so", OWN)
      names(t, run(t, interpreter, { lua }, { ours }, 'require "moonfork.ffi"', part and
        ("LD_PRELOAD='%s'"):format(library) or ("MOONFORK_LIBRARY='%s'"):format(library)),
        lua .. "/moonfork/ffi_core.lua", OWN, library, OTHER)
    end
  end
  if tried == 0 then t.skip "no other Lua is here" end
end)

story.done()
