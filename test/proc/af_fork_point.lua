-- Forking as a position in the stream of commands, what a clone inherits of arguments,
-- environment and directory, and the life of the default template: the rows AF-04 to
-- AF-06, AF-11, AF-37, AF-44, AF-48 and AF-53 to AF-56.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit
local templates = require "templates"

story.test("AF-05 the fork point is a position in the command stream", function(t)
  local p = fork.new()
  p:eval "v = 1"
  local a = p:fork()
  p:eval "v = 2"
  local b = p:fork()
  t.eq(t.ask(b, "return v"), 2)
  t.eq(t.ask(a, "return v"), 1)
  t.eq(t.ask(p, "return v"), 2)
end)

story.test("AF-06 arguments and handles are inherited, kept and appended to", function(t)
  local p = fork.new():require "actor"
  p:send_arg("s1", "s2"):send_fd(io.stdin, io.stdout)
  local a = p:fork():send_arg "c1"
  local b = p:fork():send_arg "c2"
  p:send_arg "t"
  local function given(process)
    return table.pack(t.unpack(t.got(process:run "actor:given"):read "a"))
  end
  t.eq(given(a), {"s1", "s2", "handle", "handle", "c1", n = 5})
  t.eq(given(b), {"s1", "s2", "handle", "handle", "c2", n = 5})
  t.eq(given(p), {"s1", "s2", "handle", "handle", "t", n = 5})
end)

story.test("AF-04 the default template's snapshot is that of its start", {new_template = true},
  function(t)
    local here = kit.getcwd()
    kit.setenv("STORY_SNAPSHOT", "before")
    fork.reset()
    local ask = [[return os.getenv "STORY_SNAPSHOT", require"testkit".getcwd()]]
    t.eq(table.pack(t.ask(fork.new(), ask)), {"before", here, n = 2})
    kit.setenv("STORY_SNAPSHOT", "after")
    kit.chdir "/"
    t.eq(table.pack(t.ask(fork.new(), ask)), {"before", here, n = 2})
    t.eq(table.pack(t.ask(fork.new_exec(), ask)), {"after", "/", n = 2})
    fork.reset()
    t.eq(table.pack(t.ask(fork.new(), ask)), {"after", "/", n = 2})
    kit.chdir(here)
    kit.setenv "STORY_SNAPSHOT"
  end)

story.test("AF-04 env and cwd are options and commands of every process", function(t)
  local folder = t:tmp()
  local ask = [[return os.getenv "STORY_ONE", os.getenv "STORY_TWO", require"testkit".getcwd()]]
  local options = {env = {STORY_ONE = "1"}, cwd = folder}
  for _, make in ipairs {"new", "new_exec"} do
    t.eq(table.pack(t.ask(fork[make](options), ask)), {"1", nil, folder, n = 3}, make)
  end
  local p = fork.new {env = {STORY_ONE = "1", STORY_TWO = "2"}}
  local q = p:fork {env = {STORY_ONE = false}, cwd = "/"}
  t.eq(table.pack(t.ask(q, ask)), {nil, "2", "/", n = 3})
  p:setenv("STORY_ONE", "3"):setenv("STORY_TWO", nil):chdir(folder)
  t.eq(table.pack(t.ask(p:fork(), ask)), {"3", nil, folder, n = 3})
  t.eq(table.pack(t.ask(p, ask)), {"3", nil, folder, n = 3})
  local r = fork.new():chdir "/nowhere/at/all"
  t.match(select(2, r:run "type"), "nowhere")
end)

story.test("AF-11 search paths go along, made absolute, as they are at the call", function(t)
  local folder = t:tmp()
  kit.mkdir(folder .. "/rel")
  t:file("rel/af11.lua", "return {f = function(s) s:write 'found' end}")
  local here, path = kit.getcwd(), package.path
  kit.chdir(folder)
  package.path = "./rel/?.lua;" .. path
  local p = fork.new_exec()
  package.path = path
  local environment = os.getenv "LUA_PATH"
  kit.chdir "/"
  local socket, err = p:run "af11:f"
  kit.chdir(here)
  t.eq(t.got(socket, err):read "a", "found")
  t.eq(t.ask(fork.new_exec(), "return os.getenv 'LUA_PATH'"), environment)
  local q = fork.new_exec {path = folder .. "/rel/?.lua", cpath = "/nowhere/?.so"}
  q:eval "function f(s) s:write(package.path, ' ', package.cpath, ' ', tostring(require 'af11')) end"
  t.match(t.got(q:run "f"):read "a", "^" .. folder:gsub("%p", "%%%0") ..
    "/rel/%?%.lua /nowhere/%?%.so table")
end)

story.test("AF-37 configured and forgotten: what was asked for happens", function(t)
  local r, w = kit.pipe()
  fork.new():send_fd(w):eval [[
    local clone = require "moonfork.clone"
    local handle = clone.run_args()
    handle:write "done"
    handle:close()
  ]]
  kit.close(w)
  t.collect()
  t.within(5, function() return kit.poll(r, "r", 0) > 0 end)
  t.eq(kit.read(r, 100), "done")
  t.within(5, function() return kit.poll(r, "r", 0) > 0 end)
  t.eq(kit.read(r, 100), "", "end of file")
  kit.close(r)
end)

story.test("AF-44 run_args gives what run would pass, and clears it", function(t)
  local p = fork.new():send_arg("a", "b"):send_fd(io.stdin):send_arg ""
  p:eval [[
    local clone = require "moonfork.clone"
    local args = table.pack(clone.run_args())
    assert(args.n == 4, args.n)
    listener = args[3]
    first = {args[1], args[2], type(listener.fileno), args[4]}
    second = select("#", clone.run_args())
  ]]
  p:send_arg "later"
  local first, second, rest, open = t.ask(p:fork(), [[
    return first, second, {select(2, ...)}, require"testkit".fstat(listener:fileno()) ~= nil
  ]])
  t.eq(first, {"a", "b", "function", ""})
  t.eq(second, 0)
  t.eq(rest, {"later"})
  t.eq(open, true)
  local q = fork.new():eval "clone = require 'moonfork.clone'"
  local ok, taken = t.ask(q:send_arg "a", "return pcall(clone.run_args)")
  t.ok(not ok or taken == nil, "before run only")
end)

story.test("AF-48 a dead default template fails what waits for it, and is replaced",
  {new_template = true}, function(t)
    local program
    local template = templates.started_by(function()
      fork.reset()
      program = t.ask(fork.new(), "return require'testkit'.exec_id()")
    end)
    kit.kill(template, kit.SIGSTOP)
    local failures = {}
    local waiting = {}
    for i = 1, 3 do
      waiting[i] = fork.new()
      waiting[i]:run("type", function(err) failures[#failures + 1] = err or "entered" end)
    end
    fork.step(0)
    kit.kill(template, kit.SIGKILL)
    t.within(5, function() return #failures == 3 end)
    for i = 1, 3 do
      t.error(failures[i], "TEMPLATE_DIED")
      t.eq(failures[i].started, "no")
    end
    t.ok(t.ask(fork.new(), "return require'testkit'.exec_id()") ~= program)
  end)

story.test("AF-48 an idle default template that died is replaced too", {new_template = true},
  function(t)
    for _, signum in ipairs {kit.SIGKILL, kit.SIGTERM, kit.SIGSEGV} do
      local program
      local template = templates.started_by(function()
        fork.reset()
        program = t.ask(fork.new(), "return require'testkit'.exec_id()")
      end)
      kit.kill(template, signum)
      t.within(5, function() return not t.alive(template) end)
      for _ = 1, 5 do fork.step(0.01) end
      t.ok(t.ask(fork.new(), "return require'testkit'.exec_id()") ~= program)
    end
  end)

story.test("AF-53 a template that is closed goes, its clones live on", function(t)
  local p = fork.new_exec():require "actor"
  local clones = {}
  for i = 1, 10 do clones[i] = t.got(p:fork():run "actor:echo") end
  local ended
  p:on_exit(function(status) ended = status end)
  p:close()
  for i, socket in ipairs(clones) do
    t.ok(socket:write("number ", i, "\n"))
    t.eq(socket:read "l", "number " .. i)
    socket:close()
  end
  t.within(5, function() return ended end)
  t.eq(ended.code, 0)
end)

story.test("AF-53 a closed template without clones is gone within a second", function(t)
  local p = fork.new_exec()
  t.got(p:fork():run "type")
  local pid = t.within(5, function() return p:pid() end)
  p:close()
  t.within(1, function() return not t.alive(pid) end)
end)

story.test("AF-54 a function may exist as text only", function(t)
  local p = fork.new():eval(
    "function double(socket) socket:write(2 * math.tointeger(socket:read 'l')) end")
  local socket = t.got(p:run "double")
  socket:write "21\n"
  t.eq(socket:read "a", "42")
end)

story.test("AF-55 a template does not mind that its files change", function(t)
  local path = t:module("af55", "return {f = function(s) s:write 'old' end}")
  local p = fork.new_exec():require "af55"
  t.got(p:fork():run "af55:f")
  os.remove(path)
  t.eq(t.got(p:fork():run "af55:f"):read "a", "old")
  p:close()
end)

story.test("AF-56 clones do not carry the caller's memory", {new_template = true}, function(t)
  local out, code, err = t:lua [[
    local fork = require "moonfork"
    local ballast = {}
    for i = 1, 300 do ballast[i] = ("x"):rep(1024 * 1024) .. i end
    local p = fork.new():require "actor"
    local s = assert(p:run "actor:hold")
    local m = assert(p:memory())
    assert(m.rss < 20 * 1024 * 1024, m.rss)
    assert(#ballast == 300)
    io.write "small"
  ]]
  t.eq({out, code, err}, {"small", 0, ""})
end)

story.test("AF-50 an idle clone costs little memory of its own", function(t)
  local p = fork.new():require "actor"
  local socket = t.got(p:run "actor:hello")
  socket:read "l"
  local m = t.got(p:memory())
  for _, key in ipairs {"pss", "uss", "rss", "shared", "lua"} do
    t.eq(math.type(m[key]), "integer", key)
  end
  t.ok(m.uss < 1024 * 1024 * story.scale, "private: " .. m.uss)
  t.ok(m.rss >= m.pss and m.pss >= m.uss, story.show(m))
end)

story.done()
