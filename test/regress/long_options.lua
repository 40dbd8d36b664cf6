-- An environment of 256 KiB was refused with LIMIT, which named neither the limit nor the
-- option, while arguments take 4 GiB. Options have no limit but memory.
local story = require "story"
local fork = require "moonfork"

local CODE = [[
  function f(socket, ...)
    for _, name in ipairs {...} do socket:write(#(os.getenv(name) or ""), " ") end
    socket:write(os.getenv("LAST") or "none", "\n")
  end
]]

local function lengths(t, p, ...)
  local socket <close> = t.got(p:eval(CODE):send_arg(...):run "f")
  local text = socket:read()
  t.eq(t.status(p).code, 0)
  return text
end

local MAKE = {
  new = function(o) return fork.new(o) end,
  new_exec = function(o) return fork.new_exec(o) end,
  fork = function(o) return fork.new():fork(o) end,
}

for name, make in pairs(MAKE) do
  story.test("an environment has no limit but memory: " .. name, {deadline = 60}, function(t)
    for _, size in ipairs {256 * 1024 - 100, 256 * 1024, 3 << 20} do
      t.eq(lengths(t, make {env = {BIG = ("x"):rep(size), LAST = "here"}}, "BIG"), size .. " here")
    end
    local many = {LAST = "end"}
    for i = 1, 20000 do many["NAME_" .. i] = ("v"):rep(40) end
    t.eq(lengths(t, make {env = many}, "NAME_1", "NAME_20000"), "40 40 end")
  end)
end

story.test("handles come with a long environment, and clones inherit it", function(t)
  local path = t:file "out"
  local p = fork.new {env = {BIG = ("x"):rep(1 << 20)}, stdout = assert(io.open(path, "w"))}
  t.eq(lengths(t, p:eval "print 'to the file'":fork(), "BIG"), (1 << 20) .. " none")
  p:close()
  fork.loop()
  t.eq(t.read(path), "to the file\n")
end)

story.test("setenv, require, eval and run take long texts, too", function(t)
  local size = 1 << 20
  t.eq(lengths(t, fork.new():setenv("BIG", ("x"):rep(size)), "BIG"), size .. " none")
  local name = ("n"):rep(size)
  local p = fork.new():eval("package.preload[...] = function() LOADED = true end", name):require(name)
  p:eval("_G[...] = function(socket) socket:write(tostring(LOADED)) end", name)
  local socket <close> = t.got(p:run(name))
  t.eq(socket:read "a", "true")
  t.status(p)
end)

story.test("a long directory name is named in its error", function(t)
  local long = ("/x"):rep(200000)
  local err = t.error(select(2, fork.new {cwd = long}:run "type"), "EINVAL")
  t.match(err.message, "cwd /x/x/x")
  t.match(err.message, "too long")
end)

story.test("a pool's template that is started again has its long environment", function(t)
  local p = fork.new {env = {BIG = ("x"):rep(1 << 20)}}
  p:eval "function f() return #os.getenv 'BIG' end function die() os.exit(3) end"
  t.got(p:fork():run "type")
  local pid
  local pool = p:pool("f", {max = 1, max_calls = 1})
  t.eq(t.got(pool:call()), 1 << 20)
  pid = p:pid()
  t.ok(pid)
  story.kit.kill(pid, 9)
  for _ = 1, 3 do t.eq(t.got(pool:call()), 1 << 20) end
  t.got(pool:drain(10))
end)

story.done()
