-- Static data of C modules is not in an image. A module whose variables differ from those of a module that
-- was just loaded would work with others after loading than before saving; that is refused, with the name
-- of the library and the variable. Nobody compared them in the first version: cjson's luaopen writes the
-- decimal point of the locale there.
local story = require "story"
local image_story = require "image_story"
local fork = require "moonfork"

local function refused(t, process, pattern)
  local path = t:file "refused"
  local ok, err = process:save(path)
  t.eq(ok, nil)
  t.error(err, "EINVAL", pattern)
  t.eq(t.read(path), nil)
end

local function saved(t, process, name)
  local path = t:file(name or "image")
  t.got(process:save(path))
  return path
end

image_story("a variable that was changed is named, and the process goes on", function(t)
  local p = fork.new_exec():require "statics"
  local q = fork.load(saved(t, p))
  t.eq(t.ask(q:fork(), "return require 'statics'.get 'counter'"), 0)
  p:eval "require 'statics'.set('counter', 7)"
  refused(t, p, "statics%.so has changed .*%(counter%).*__clone")
  p:eval "require 'statics'.set('counter', 0) require 'statics'.set('initialised', 42)"
  refused(t, p, "statics%.so has changed .*%(initialised%)")
  t.eq(t.ask(p:fork(), "return require 'statics'.get 'initialised'"), 42)
  p:eval "require 'statics'.set('initialised', 41)"
  saved(t, p) -- as it was loaded
end)

image_story("variables of threads, of libraries that a module needs, and addresses", function(t)
  for code, pattern in pairs{
    ["set('thread', 3)"] = "statics%.so has changed .*thread%-local",
    ["set('library', 3)"] = "libstatics_library%.so.*statics%.so needs.*%(statics_of_library%)",
    ["point 'forget'"] = "statics%.so has changed .*%(constructed%)",
    ["point 'choose'"] = "statics%.so has changed .*%(chosen%)",
    ["point 'allocate'"] = "statics%.so has changed .*%(allocated%)",
    ["point('interpreter', io.stdout)"] = "statics%.so has changed .*%(constructed%)",
  } do
    local p = fork.new_exec():eval("require 'statics'." .. code)
    refused(t, p, pattern)
    p:close()
  end
end)

image_story("__clone in the metatable of a module's table vouches for it", function(t)
  local p = fork.new_exec():eval [[
    calls = 0
    local statics = require "statics"
    statics.set("counter", 5)
    statics.set("library", 6)
    statics.kept = "kept"
    setmetatable(statics, {__clone = function(module)
      calls = calls + 1
      module.set("counter", 50 + calls)
      assert(module == require "statics" and module.kept == "kept")
    end})
  ]]
  local ASK = "collectgarbage() return calls, require 'statics'.get 'counter', require 'statics'.get 'library'"
  local path = saved(t, p)
  t.eq({t.ask(p:fork(), ASK)}, {0, 5, 6})
  for _ = 1, 2 do
    local q = fork.load(path)
    t.eq({t.ask(q:fork(), ASK)}, {1, 51, 0})
    local again = fork.load(saved(t, q, "again"))
    t.eq({t.ask(again:fork(), ASK)}, {2, 52, 0})
    q:close()
  end
  p:eval "getmetatable(require 'statics').__clone = function() error 'not here' end"
  local socket, err = fork.load(saved(t, p)):run "type"
  t.eq(socket, nil)
  t.match(err.message, "not here")
end)

image_story("a module whose file is gone can't be compared", function(t)
  local source = assert(package.searchpath("objects", package.cpath))
  local copy = t:file("objects_gone.so", t.read(source))
  local p = fork.new_exec():eval("local open = assert(package.loadlib(..., 'luaopen_objects')) open()", copy)
  t.got(p:memory())
  os.remove(copy)
  refused(t, p, "can't be compared.*objects_gone%.so")
  t.eq(t.ask(p:fork(), "return 1"), 1)
end)

image_story("modules of other people that are known", function(t)
  local tried = 0
  for name, code in pairs{
    lfs = "for _ in m.dir '/' do end m.attributes '/'",
    lpeg = "assert(m.match(m.P 'a', 'a'))",
    socket = "m.bind('127.0.0.1', 0):close()",
    ssl = "assert(m.newcontext{mode = 'client', protocol = 'any'})",
    ["luasql.sqlite3"] = "local e = m.sqlite3() local c = e:connect '' c:close() e:close()",
  } do
    local there = package.searchpath(name:gsub("socket", "socket.core"), package.cpath)
    if there or package.searchpath(name, package.path) then
      tried = tried + 1
      code = ("local m = require '%s' %s"):format(name, code)
      local p = fork.new_exec():eval(code):eval "collectgarbage() collectgarbage()"
      t.eq(t.ask(fork.load(saved(t, p)):eval(code), "return 1"), 1)
      p:close()
    end
  end
  for name, library in pairs{luv = "luv%.so", ["_openssl.rand"] = "_openssl%.so"} do
    if package.searchpath(name:gsub("%..*", ""), package.cpath) then
      tried = tried + 1
      local p = fork.new_exec():require(name)
      refused(t, p, library .. " has changed")
      p:close()
    end
  end
  if tried == 0 then t.skip "none is installed" end
end)

story.done()
