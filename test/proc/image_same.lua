-- A template that was loaded from an image does what one that was built does: findings of the
-- audit, sealing, memory, forks, collections. And `rebuild`, in all its cases.
local story = require "story"
local image_story = require "image_story"
local fork = require "moonfork"
local image_file = require "image_file"

local function both(t, code)
  local path = t:file "image"
  local p = fork.new_exec():eval(code)
  t.eq(p:save(path), true)
  p:close()
  return fork.new_exec():eval(code), fork.load(path)
end

local FINDINGS = [[
  local list = {}
  for _, f in ipairs(require("moonfork.clone").findings()) do
    list[#list + 1] = f.kind .. ": " .. f.text:gsub("%(eval at [^)]*%)", "")
  end
  table.sort(list)
  found = table.concat(list, "\n")
]]

image_story("the audit finds what it has found of the original", function(t)
  t:module("image_careless", [[
    math.randomseed(42)
    return {home = os.getenv 'HOME', pid = require('moonfork.clone').pid(), drawn = math.random(1 << 30)}]])
  for _, code in ipairs{
    "require 'image_careless'",
    "collectgarbage 'incremental'", "collectgarbage 'stop'", "debug.sethook(function() end, 'l')",
    "os.exit = function() end", "kept = {setmetatable({}, {__gc = function() end})}",
    "kept = coroutine.wrap(function() local k <const> = setmetatable({}, {__gc = print}) coroutine.yield() end) kept()",
    "local objects = require 'objects' kept = objects.new{__gc = objects.free, __clone = function() end}",
  } do
    local built, loaded = both(t, code)
    local of_built = t.ask(built:eval(FINDINGS):fork(), "return found")
    t.ok(#of_built > 0, code)
    for _ = 1, 2 do -- the second: of what was loaded, saved and loaded again
      t.eq(t.ask(loaded:eval(FINDINGS):fork(), "return found"), of_built, code)
      local path = t:file "again"
      t.eq(loaded:save(path), true)
      loaded = fork.load(path)
    end
    local refused, err = fork.new_exec():eval(code):seal{audit = "strict"}:fork():run "type"
    local path = t:file "strict"
    t.eq(fork.new_exec():eval(code):save(path), true)
    local refused_too, err_too = fork.load(path):seal{audit = "strict"}:fork():run "type"
    t.eq(refused_too == nil, refused == nil, code)
    t.eq(err_too and err_too.code, err and err.code, code)
    built:close()
    loaded:close()
  end
  local _, loaded = both(t, "kept = 1") -- and no more than that
  t.ok(t.ask(loaded:eval(FINDINGS):fork(), "return not found:find 'seed' and not found:find 'hook'"))
end)

image_story("memory: the same for Lua, no more of its own, and clones share it", function(t)
  local built, loaded = both(t, "data = {} for i = 1, 50000 do data[i] = {i} end")
  local of_built, of_loaded = t.got(built:seal():memory()), t.got(loaded:seal():memory())
  t.ok(of_built.lua > 4000000)
  t.ok(math.abs(of_built.lua - of_loaded.lua) < 100000, of_built.lua .. " " .. of_loaded.lua)
  local has_sizes = of_built.uss > 0 -- where /proc says so
  t.ok(not has_sizes or of_loaded.uss < of_built.uss - 2000000,
    ("it lies in the file: %d of %d"):format(of_loaded.uss, of_built.uss))
  for _, p in ipairs{built, loaded} do
    local q = p:fork():eval "local sum = 0 for i = 1, #data do sum = sum + data[i][1] end"
    local memory = t.got(q:memory())
    t.ok(memory.lua > 4000000)
    q:close()
  end
  -- What grows is accounted for, and what is dropped is gone.
  loaded:eval "more = {} for i = 1, 50000 do more[i] = {i} end"
  local grown = t.got(loaded:memory())
  t.ok(grown.lua > of_loaded.lua + 3000000, grown.lua)
  loaded:eval "data, more = nil, nil collectgarbage() collectgarbage()"
  local left = t.got(loaded:seal():memory())
  t.ok(left.lua < 1000000, left.lua)
end)

image_story("seals, forks and collections in any order leave everything as it was", function(t)
  local _, loaded = both(t, [[
    tree = {}
    local function grow(node, depth)
      if depth == 0 then return end
      for i = 1, 4 do node[i] = {} grow(node[i], depth - 1) end
    end
    grow(tree, 6)
    function count(node)
      local n = 1
      for _, child in ipairs(node) do n = n + count(child) end
      return n
    end]])
  local nodes = (4 * 4 ^ 6 - 1) // 3 | 0
  math.randomseed(11)
  for i = 1, 12 do
    local step = math.random(5)
    if step == 1 then loaded:seal()
    elseif step == 2 then loaded:eval "collectgarbage()"
    elseif step == 3 then loaded:eval "collectgarbage('step', 100)"
    elseif step == 4 then loaded:eval "for i = 1, 5000 do local t = {i, {}} end"
    else
      loaded:eval "collectgarbage(collectgarbage('incremental') == 'incremental' and 'generational' or 'incremental')"
    end
    local clone = loaded:fork()
    if i % 3 == 0 then clone = clone:eval "collectgarbage() for i = 1, 1000 do local t = {{}} end":fork() end
    t.eq(t.ask(clone, [[
      if math.random(2) == 1 then require("moonfork.clone").collect() end
      return count(tree)]]), nodes)
  end
  t.eq(t.ask(loaded, "collectgarbage() return count(tree)"), nodes)
end)

-- ---- rebuild ----

local function rebuilt(path, f, options)
  options = options or {}
  options.image, options.rebuild = path, f
  local p, err = fork.new_exec(options)
  return p, err
end

image_story("rebuild: missing, cut, of another version, of another build, open to others", function(t)
  local path, n = t:file "image", 0
  os.remove(path)
  local function load()
    local p, err = rebuilt(path, function(process)
      n = n + 1
      process:eval("made = ...", n)
    end)
    t.eq(err, nil)
    local made = t.ask(p:fork(), "return tonumber(made)")
    p:close()
    return made
  end
  t.eq({load(), load(), n}, {1, 1, 1})
  local function spoil(f)
    local file = image_file.read(path)
    f(file)
    file:write(path)
  end
  spoil(function(f) f:set("version", 1) end)
  t.eq({load(), load(), n}, {2, 2, 2})
  spoil(function(f) f:set_id(1, ("\0"):rep(#f.libraries[1].id)) end)
  t.eq({load(), load(), n}, {3, 3, 3})
  local f = assert(io.open(path, "r+b"))
  f:write "no image"
  f:close()
  t.eq({load(), load(), n}, {4, 4, 4})
  os.execute(("truncate -s 20000 '%s'"):format(path))
  t.eq({load(), load(), n}, {5, 5, 5})
  os.execute(("chmod 666 '%s'"):format(path))
  t.eq({load(), load(), n}, {6, 6, 6})
  os.execute(("rm '%s'; ln -s nowhere '%s'"):format(path, path))
  t.eq({load(), load(), n}, {7, 7, 7})
end)

-- Garbage may be collected late: until then it kept a process and its descriptors.
image_story("rebuild: the process that could not use the image is closed at once", function(t)
  local path = t:file("image", "no image")
  local function count() return select(2, fork.dump():gsub("%f[%w]process %d+[ :]", "")) end
  fork.loop()
  t.collect()
  local before = count()
  collectgarbage "stop"
  t:defer(function() collectgarbage "restart" end)
  local p, err = rebuilt(path, function(process) process:eval "x = 1" end)
  t.eq(err, nil)
  t.within(10, function() return count() <= before + 1 end, "its record is gone")
  t.eq(t.ask(p:fork(), "return x"), 1)
  p:close()
end)

image_story("rebuild: a function that fails, a process that fails, and no place to save to", function(t)
  local path = t:file "image"
  os.remove(path)
  t.raises("on purpose", rebuilt, path, function() error "on purpose" end)
  t.eq(t.read(path), nil)
  local p, err = rebuilt(path, function(process) process:eval "error 'in the process'" end)
  t.error(err, "REMOTE", "in the process") -- of the save
  t.eq(t.read(path), nil)
  local socket
  socket, err = p:run "type"
  t.eq(socket, nil)
  t.error(err, "REMOTE", "in the process")
  p, err = rebuilt(path, function(process) process:eval "file = io.open '/dev/null'" end)
  t.error(err, "EINVAL", "open file")
  t.eq(t.read(path), nil)
  t.eq(t.ask(p:fork(), "return io.type(file)"), "file") -- it is as good
  p, err = rebuilt(t:tmp() .. "/no/image", function(process) process:eval "x = 1" end)
  t.error(err, "EINVAL", "No such file")
  t.eq(t.ask(p:fork(), "return x"), 1)
  -- An image whose objects can't be had again is none that can be used.
  t.eq(fork.new_exec():eval [[
    thing = require "objects".new{__name = "thing", __clone = function() error "not here" end}]]:save(path), true)
  p, err = rebuilt(path, function(process) process:eval "x = 2" end)
  t.eq(err, nil)
  t.eq(t.ask(p:fork(), "return x"), 2)
  t.eq(t.ask(fork.load(path):fork(), "return x"), 2)
  -- An error of the process that is not about its image is none to build for.
  local called
  p = rebuilt(path, function() called = true end, {program = "/no/such/program"})
  socket, err = p:run "type"
  t.eq(socket, nil)
  t.error(err, "TEMPLATE_START")
  t.ok(not called)
end)

image_story("rebuild: two programs at once both have what they need", function(t)
  local path = t:file "image"
  os.remove(path)
  local script = t:file("script.lua", ([[
    local fork = require "moonfork"
    local p, err = fork.new_exec{image = %q, rebuild = function(process)
      process:eval "made = {} for i = 1, 20000 do made[i] = {i} end"
      process:memory()
      io.open(%q .. arg[1], "w"):close() -- both are here, before either saves
      for _ = 1, 1000 do
        if io.open(%q .. "1") and io.open(%q .. "2") then return end
        fork.sleep(0.01)
      end
    end}
    assert(err == nil, err)
    local q = p:fork():eval "function last(s) s:write(made[20000][1]) end"
    print(assert(q:run "last"):read "a")]]):format(path, path .. ".", path .. ".", path .. "."))
  local pipes = {}
  for i = 1, 2 do pipes[i] = io.popen(("exec %s '%s' %d 2>&1"):format(os.getenv "LUA" or "lua5.4", script, i)) end
  for i = 1, 2 do
    t.eq(pipes[i]:read "a", "20000\n")
    pipes[i]:close()
  end
  t.eq(t.ask(fork.load(path):fork(), "return made[20000][1]"), 20000)
  local pipe = io.popen(("ls -A '%s'"):format(t:tmp()))
  t.eq(pipe:read "a", "image\nimage.1\nimage.2\nscript.lua\n")
  pipe:close()
end)

story.done()
