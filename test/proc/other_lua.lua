-- Other Lua versions as parents: test/help/other_lua.lua, run by each interpreter that is here, a
-- process for each of its tests. LuaJIT runs them twice: by its ffi, and with the C part of Lua 5.1.
local story = require "story"
local kit = story.kit

local build, source = os.getenv "MOONFORK_BUILD", os.getenv "MOONFORK_SOURCE"
local script = source .. "/test/help/other_lua.lua"

local both_back_ends = { ["lua5.3"] = true, luajit = true }

local function run(program, name, more)
  local pipe = assert(io.popen(("timeout %d %s %s '%s' %s 2>&1 </dev/null"):format(
    math.ceil(60 * story.scale), program, script, name, more or "")))
  local text = pipe:read "a"
  local ok, _, code = pipe:close()
  return ok == true, code, text
end

local function is_there(program)
  return os.execute(("command -v %s >/dev/null 2>&1"):format(program)) == true
end

local function has_part(short)
  local f = io.open(("%s/moonfork/ffi%s.so"):format(build, short))
  if f then f:close() end
  return f ~= nil
end

local names = {}
for line in assert(io.open(script)):lines() do
  names[#names + 1] = line:match '^tests%["(.*)"%] = function%(%)$'
end
assert(#names > 10, "no tests found")

for _, row in ipairs {
  { "lua5.1", "51" }, { "lua5.2", "52" }, { "lua5.3", "53" }, { "luajit" },
  { "luajit", "51", "without_ffi" },
} do
  local program, short, more = row[1], row[2], row[3]
  local title = program .. (more and " without its ffi" or "")

  local function need(t)
    if not is_there(program) then t.skip(program .. " is not installed") end
    if story.is_sanitized and not both_back_ends[title] then
      t.skip "a sanitizer sees one interpreter of each back end"
    end
    if short and not has_part(short) then
      t.skip("the headers of " .. program .. " were not there when this was built")
    end
  end

  for _, name in ipairs(names) do
    story.test(title .. ": " .. name, { deadline = 60 }, function(t)
      need(t)
      local ok, code, text = run(program, name, more)
      t.ok(ok, ("status %s\n%s"):format(code, text))
      t.eq(text, "")
    end)
  end

  story.test(title .. ": nothing is left behind when the Lua state ends", { deadline = 60 },
    function(t)
      need(t)
      local t0 = kit.now()
      local ok, code, text = run(program, "left behind", more)
      t.ok(ok, ("status %s\n%s"):format(code, text))
      t.ok(kit.now() - t0 < 8 * story.scale, "it took long to end")
      local n = 0
      for pid in text:gmatch "%d+" do
        n = n + 1
        t.outside(5, function() return not t.alive(tonumber(pid)) end, pid)
      end
      t.ok(n >= 4, text)
    end)
end

-- They were found where the build had been made, which another user may not be able to read.
story.test("the modules of a copied build use the library beside them", function(t)
  local program, short
  for _, row in ipairs { { "lua5.3", "53" }, { "lua5.2", "52" }, { "lua5.1", "51" } } do
    if is_there(row[1]) and has_part(row[2]) then program, short = row[1], row[2] end
  end
  if not program then t.skip "there is no C part for an interpreter that is here" end
  local copy = t:tmp()
  t.ok(os.execute(("cd '%s' && mkdir -p '%s/moonfork' '%s/src/parent' && "
    .. "cp moonfork/ffi%s.so '%s/moonfork/' && cp src/parent/libmoonfork.so.0 '%s/src/parent/'")
    :format(build, copy, copy, short, copy, copy)))
  local pipe = assert(io.popen(("env -u LD_LIBRARY_PATH LUA_CPATH='%s/?.so' %s -e \"%s\" 2>&1")
    :format(copy, program, "require 'moonfork.ffi' io.write(io.open('/proc/self/maps'):read '*a')")))
  local maps = pipe:read "a"
  pipe:close()
  t.ok(maps:find(copy .. "/moonfork/../src/parent/libmoonfork.so", 1, true)
    or maps:find(copy .. "/src/parent/libmoonfork.so", 1, true), maps)
end)

story.test("Lua 5.4 is told to use the module of its own", function(t)
  local ok, _, text = run("lua5.4", "list")
  t.eq(ok, false)
  t.match(text, 'moonfork%.ffi is for LuaJIT and Lua 5%.1 to 5%.3.*require "moonfork"')
end)

story.done()
