-- Images: an interpreter in a file (section 1.13 of the manual). What was saved is there again in
-- every process that begins as that file, forks as from a template that was built, and what can't
-- be saved or loaded is an error that says why and changes nothing.
local story = require "story"
local image_story = require "image_story"
local fork = require "moonfork"
local kit = story.kit

local BUILD = [[
  data = {}
  for i = 1, 3000 do data[i] = {i = i, text = ("s"):rep(i % 300), up = data[i - 1]} end
  big = ("0123456789abcdef"):rep(20000)
  list = table.move(data, 1, 3000, 1, {})
  names = {}
  for name, f in pairs(string) do names[f] = name end
  names[io.stdout], names[print], names[1.5], names[false] = "stdout", "print", 1.5, 0
  weak = setmetatable({}, {__mode = "k"})
  weak[data] = "data"
  generator = coroutine.wrap(function(...)
    local closes <close> = setmetatable({}, {__close = function() closed = true end})
    for i = 1, math.huge do coroutine.yield(i, ...) end
  end)
  generator "first"
  counter = (function() local n = 40 return function() n = n + 1 return n end end)()
  function check()
    for i = 1, 3000 do
      assert(data[i].i == i and #data[i].text == i % 300 and data[i].up == data[i - 1])
      assert(list[i] == data[i])
    end
    assert(#big == 320000 and big:sub(-16) == "0123456789abcdef")
    for name, f in pairs(string) do assert(names[f] == name, name) end
    assert(names[io.stdout] == "stdout" and names[print] == "print" and names[1.5] == 1.5)
    assert(names[false] == 0 and weak[data] == "data")
    local n = 0
    for _ in pairs(names) do n = n + 1 end
    collectgarbage()
    for i = 1, 200 do names[i] = tostring(i) end
    for i = 1, 200 do assert(names[i] == tostring(i)) names[i] = nil end
    return n, generator(), counter()
  end
]]

local function checked(t, process)
  local n, next_one, counted = t.ask(process, "return check()")
  t.ok(n > 15)
  t.eq({next_one, counted}, {2, 41})
end

image_story("what was saved is there again, in the process, its clones and theirs", function(t)
  local path = t:file "image"
  local p = fork.new_exec():eval(BUILD)
  t.eq(p:save(path), true)
  checked(t, p:fork()) -- the original goes on
  for _ = 1, 2 do
    local q = fork.load(path)
    checked(t, q:fork())
    local r = q:fork():eval "extra = {check()} generator = nil"
    t.eq(t.ask(r:fork(), "return extra[2], extra[3], counter()"), 2)
    t.eq(t.ask(r:fork(), "return select(2, table.unpack(extra))"), 2)
    q:eval "data[1].i = 'changed'":eval "data[1].i = 1"
    checked(t, q:fork())
    checked(t, q) -- runs by itself
    q:close()
  end
  p:close()
end)

image_story("a loaded template may be changed, sealed, collected and saved again", function(t)
  local first, second = t:file "first", t:file "second"
  t.eq(fork.new_exec():eval(BUILD):save(first), true)
  local p = fork.load(first):eval "more = {} for i = 1, 50000 do more[i] = {i} end"
  checked(t, p:fork())
  t.eq(p:eval "collectgarbage() big = big .. '!'":save(second), true)
  t.eq(fork.load(second):save(second), true) -- in its own place
  local q = fork.load(second)
  t.eq({t.ask(q:fork(), "big = big:sub(1, -2) check() return #more, more[50000][1]")}, {50000, 50000})
  for _ = 1, 3 do -- as much again
    q:eval "for i = 1, 20000 do more[i] = {i, {}} end"
    t.eq(t.ask(q:fork(), "require 'moonfork.clone'.collect() return more[20000][1]"), 20000)
  end
  local memory = t.got(q:memory())
  t.ok(memory.lua > 1000000, memory)
end)

image_story("strings that were received as arguments are saved, and copied", function(t)
  local path, long = t:file "image", ("argument"):rep(40000)
  local p = fork.new_exec():eval("kept = {...}", "short", long, long .. "!")
  local code = "return #kept[2], #kept[3], kept[3]:sub(-9), kept[2] .. '!' == kept[3]"
  local function checked_strings(process)
    t.eq({t.ask(process, code)}, {320000, 320001, "argument!", true})
  end
  checked_strings(p:fork{isolation = "thread"})
  t.eq(p:save(path), true)
  local q = fork.load(path):eval("more = ...", long)
  checked_strings(q:fork())
  checked_strings(q:fork{isolation = "thread"})
  t.eq(q:eval "kept[2] = more collectgarbage()":save(path), true)
  checked_strings(fork.load(path):fork())
end)

image_story("strings that wait for the function are saved, handles are not", function(t)
  local path, long = t:file "image", ("waits"):rep(50000)
  local p = fork.new_exec()
    :eval "function told(s, ...) for _, a in ipairs{...} do s:write(#a, a:sub(1, 3), ' ') end end"
    :send_arg("first", ""):send_fd(io.stderr):send_arg(long, "a\0b")
  t.eq(p:save(path), true)
  local q = fork.load(path)
  for _ = 1, 2 do t.eq(t.got(q:fork():run "told"):read "a", "5fir 0 250000wai 3a\0b ") end
  t.eq(t.got(q:fork():send_arg("more"):run "told"):read "a", "5fir 0 250000wai 3a\0b 4mor ")
  t.eq(t.ask(q:fork():take_args(), "return select('#', ...)"), 1) -- the socket
  t.eq(q:save(path), true)
  t.eq(t.got(fork.load(path):fork():run "told"):read "a", "5fir 0 250000wai 3a\0b ")
  t.eq(t.ask(p:fork(), "return select('#', ...)"), 6) -- the original has all
end)

image_story("a long string that the function was called with is in the image that it makes", function(t)
  local path, long = t:file "image", ("argument"):rep(40000)
  local p = fork.new_exec():eval([[
    function sleeps(s, one, two, path)
      local how, socket = require("moonfork.clone").hibernate(path)
      s = socket or s
      s:write(how, " ", #one, " ", #two, " ", one:sub(-8), two:sub(-8)) end]])
  t.eq(t.got(p:fork():send_arg(long, long .. "!", path):run "sleeps"):read "a", "saved 320000 320001 argumentrgument!")
  t.eq(t.got(fork.load(path):run()):read "a", "loaded 320000 320001 argumentrgument!")
end)

image_story("modules of C and their functions are found again", function(t)
  local path = t:file "image"
  t:module("image_module", [[
    local kit = require "testkit"
    local cached = kit.getpid
    return {pid = function() return cached() end, table = {[kit.getpid] = "getpid"}, kit = kit}
  ]])
  local p = fork.new_exec():require "image_module"
  t.eq(p:save(path), true)
  p:close()
  local code = [[
    local m, kit = require "image_module", require "testkit"
    assert(m.kit == kit and m.table[kit.getpid] == "getpid")
    return m.pid() == kit.getpid()
  ]]
  for _ = 1, 3 do
    local q = fork.load(path)
    t.eq(t.ask(q:fork(), code), true)
    t.eq(t.ask(q:fork(), "collectgarbage() package.loaded.testkit = nil return pcall(require, 'testkit')"), true)
    q:close()
  end
end)

image_story("options of the new process, hooks and the state of random numbers", function(t)
  local path = t:file "image"
  local p = fork.new_exec():eval [[
    local clone = require "moonfork.clone"
    clone.on_fork(function() born = (born or 0) + 1 end)
    clone.before_fork(function() if refuse then return false, "not now" end end)
    drawn = math.random(0)
  ]]
  t.eq(p:save(path), true)
  local drawn = {}
  for i = 1, 2 do
    local q = fork.new_exec{image = path, env = {IMAGE_STORY = "here"}, cwd = "/", name = "loaded"}
    q:eval "drawn = math.random(0)"
    local born, variable, number = t.ask(q:fork(), "return born, os.getenv 'IMAGE_STORY', drawn")
    t.eq({born, variable}, {1, "here"})
    drawn[i] = number
    local socket, err = q:eval "refuse = true":fork():run "type"
    t.eq(socket, nil)
    t.error(err, "FORK_FAILED", "not now")
  end
  t.ok(drawn[1] ~= drawn[2], "each process draws its own")
  local paths = "return package.path, package.cpath, collectgarbage 'incremental'"
  local saved_path, saved_cpath, mode = t.ask(fork.load(path):fork(), paths)
  t.eq({saved_path, saved_cpath, mode}, {t.ask(p:fork(), paths)})
  local longer, longer_c = "a/?.lua;" .. saved_path, "b/?.so;" .. saved_cpath
  t.eq({t.ask(fork.load(path, {path = longer}):fork(), paths)}, {longer, saved_cpath, mode})
  t.eq({t.ask(fork.load(path, {cpath = longer_c, gc = "incremental"}):fork(), paths)},
    {saved_path, longer_c, "incremental"})
  local q = fork.load(path, {env = {IMAGE_STORY = "there"}, verify = true})
  t.eq(t.ask(q:fork(), "return os.getenv 'IMAGE_STORY'"), "there")
  local err
  os.remove(path)
  q, err = fork.load(path, {rebuild = function(process) process:eval "drawn = 'anew'" end})
  t.eq(err, nil)
  t.eq(t.ask(q:fork(), "return drawn"), "anew")
  t.eq(t.ask(fork.load(path):fork(), "return drawn"), "anew")
end)

image_story("what can't be saved is an error with type and path, and the process goes on", function(t)
  local path = t:file "image"
  local cases = {
    {"box = {file = assert(io.open '/dev/null')}", "FILE%*.*box%.file.*open file"},
    {"box = {[7] = (require 'moonfork.clone'.run_args())}", "moonfork%.socket.*box%[7%]"},
    {"box = {handle = {require 'objects'.light()}}", "light userdata 0x%x+ %(box%.handle%[1%]%): .*memory"},
    {"local u = require 'objects'.light() box = function() return u end", "light userdata .*%(box %(upvalue u%)%)"},
  }
  for _, case in ipairs(cases) do
    local p = fork.new_exec():send_fd(io.stdout):eval(case[1]) -- which templates keep for ever
    local ok, err = p:save(path)
    t.eq(ok, nil)
    t.error(err, "EINVAL", case[2])
    t.eq(t.read(path), nil)
    t.eq(t.ask(p:fork(), "return box ~= nil"), true)
    p:close()
  end
end)

image_story("a second thread of a C library is refused, by module; audit = 'off' says that it is known", function(t)
  local path = t:file "image"
  local p = fork.new_exec():require "hostile_thread"
  local ok, err = p:save(path)
  t.eq(ok, nil)
  t.error(err, "EINVAL", "2 threads, the last of module 'hostile_thread'")
  t.eq(t.read(path), nil)
  t.eq(p:seal{audit = "off"}:save(path), true)
  p:close()
  -- Those of clones are none of it.
  p = fork.new_exec():eval "function wait(socket) socket:read 'a' end"
  local socket = t.got(p:fork{isolation = "thread"}:run "wait")
  t.eq(p:save(path), true)
  socket:close()
  t.eq(t.ask(fork.load(path):fork(), "return type(wait)"), "function")
end)

image_story("files that can't be used are the process's first failure, with the reason", function(t)
  local path, bad = t:file "image", t:file "bad"
  t.eq(fork.new_exec():eval(BUILD):save(path), true)
  local whole = t.read(path)
  local function refused(text, pattern, options)
    local f = assert(io.open(bad, "wb"))
    f:write(text)
    f:close()
    kit.chmod(bad, tonumber("600", 8)) -- whatever the umask is
    options = options or {}
    options.image = bad
    local socket, err = fork.new_exec(options):run "type"
    t.eq(socket, nil)
    t.error(err, "EINVAL", pattern)
    t.match(err.message, bad:gsub("%p", "%%%0"))
  end
  refused("", "no image")
  refused(("x"):rep(10000), "no image")
  refused(whole:sub(1, -2), "cut off")
  refused(whole .. " ", "behind its end")
  refused(whole:sub(1, 300) .. string.char(whole:byte(301) ~ 1) .. whole:sub(302), "damaged")
  local middle = #whole - 5000
  refused(whole:sub(1, middle) .. string.char(whole:byte(middle + 1) ~ 64) .. whole:sub(middle + 2),
    "checksum of its contents", {verify = true})
  checked(t, fork.load(path)) -- of which nothing has read that
  t.got(fork.new_exec{image = path, verify = true}:run "type")
  local socket, err = fork.load(t:file "nothing"):run "type"
  t.eq(socket, nil)
  t.error(err, "EINVAL", "No such file")
  os.execute(("chmod g+w '%s'"):format(path))
  socket, err = fork.load(path):run "type"
  t.eq(socket, nil)
  t.error(err, "EINVAL", "others may write")
end)

image_story("rebuild makes an image where there is none, or none that fits", function(t)
  local path, built = t:file "image", 0
  local function load()
    local p, err = fork.new_exec{image = path, rebuild = function(process)
      built = built + 1
      process:eval("made = ...", tostring(built))
    end}
    t.eq(err, nil)
    return t.ask(p:fork(), "return made")
  end
  t.eq({load(), load(), built}, {"1", "1", 1})
  local f = assert(io.open(path, "r+b"))
  f:seek("set", 200)
  f:write "\255\254\253"
  f:close()
  t.eq({load(), load(), built}, {"2", "2", 2})
end)

image_story("a save replaces the file as a whole, and only if it succeeds", function(t)
  local path = t:file "image"
  t.eq(fork.new_exec():eval "which = 'old'":save(path), true)
  local p = fork.new_exec():eval "which = 'new' filler = {} for i = 1, 200000 do filler[i] = {i} end"
  t.got(p:memory())
  local done
  p:save(path, function(err) done = err or true end)
  fork.step(0)
  kit.kill(p:pid(), kit.SIGKILL) -- somewhere on the way
  t.within(10, function() fork.step(0.02) return done end)
  local which = t.ask(fork.load(path):fork(), "return which")
  t.ok(which == "new" or which == "old" and done ~= true, which) -- one of them, and whole
  local q = fork.new_exec()
  local told
  q:save(t:tmp() .. "/no/such/folder", function(...) told = table.pack(...) end)
  t.within(5, function() return told end)
  t.eq(told[2], nil, "an error comes without a value")
  local ok, err = q:save(t:tmp() .. "/no/such/folder")
  t.eq(ok, nil)
  t.error(err, "EINVAL", "No such file")
  q:limit{fsize = 8192}:eval "require 'testkit'.disposition(require 'testkit'.SIGXFSZ, 'ignore')"
  ok, err = q:save(path)
  t.eq(ok, nil)
  t.error(err, "LIMIT", "File too large")
  t.ok(t.ask(fork.load(path):fork(), "return which") ~= nil)
  t.ok(q:fork():run "type", "the process goes on")
end)

story.test("wrong arguments raise, and processes without an interpreter of their own refuse", function(t)
  local p = fork.new_exec()
  t.raises("string expected", p.save, p)
  t.raises("string expected", p.save, p, {})
  t.raises("string expected", fork.load)
  t.raises("bad argument #2 to 'load'.*table expected", fork.load, "x", 1)
  t.raises("bad argument #2 to 'load'.*bogus", fork.load, "x", {bogus = 1})
  t.raises("bad argument #2 to 'load'.*verify.*boolean", fork.load, "x", {verify = 1})
  t.raises("bad argument #2 to 'load'.*image.*first argument", fork.load, "x", {image = "y"})
  t.raises("rebuild.*image", fork.new_exec, {rebuild = print})
  t.raises("verify.*boolean", fork.new_exec, {image = "x", verify = 1})
  local ok, err = p:save ""
  t.eq(ok, nil)
  t.error(err, "EINVAL", "path")
  local copy = fork.template()
  ok, err = copy:save(t:file "image")
  t.eq(ok, nil)
  t.error(err, "UNSUPPORTED")
  copy:close()
  t.got(p:run "type"):close()
  t.raises("save", p.save, p, "x")
  t.eq(t.got(p:wait()).code, 0)
  p:close()
end)

story.done()
