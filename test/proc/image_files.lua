-- Images as files (doc/images.md): saves that are killed or can't be finished, files that are
-- altered, of other builds, of other owners or open to others, addresses that are taken.
local story = require "story"
local program = require "program"
local image_file = require "image_file"
local image_story = require "image_story"
local fork = require "moonfork"
local kit = story.kit

local BUILD = [[
  objects = require "objects"
  data, keys = {}, {}
  for i = 1, 2000 do data[i] = {i = i, text = ("s"):rep(i % 300)} end
  big = ("0123456789abcdef"):rep(20000)
  for name, f in pairs(string) do keys[f] = name end
  keys[objects.new], keys[io.stdout] = "new", "stdout"
  mine = objects.new({__name = "mine", __clone = function(o) objects.set(o, 2, 4711) end}, 1)
  objects.set(mine, 1, "self")
  debug.setuservalue(mine, data, 1)
  generator = coroutine.wrap(function() for i = 1, math.huge do coroutine.yield(i) end end)
  generator()
  function check()
    for i = 1, 2000 do assert(data[i].i == i and #data[i].text == i % 300) end
    for name, f in pairs(string) do assert(keys[f] == name, name) end
    assert(keys[objects.new] == "new" and keys[io.stdout] == "stdout" and #big == 320000)
    assert(objects.kind(mine, 1) == "self" and objects.get(mine, 2) == 4711)
    assert(debug.getuservalue(mine, 1) == data)
    collectgarbage()
    for i = 1, 2000 do data[i + 2000] = {i} end
    return generator()
  end
]]

local function saved(t, name, build)
  local path = t:file(name or "image")
  local p = fork.new_exec():eval(build or BUILD)
  t.eq(p:save(path), true)
  p:close()
  return path
end

local function refused(t, path, pattern, options)
  options = options or {}
  options.image = path
  local p = fork.new_exec(options)
  local socket, err = p:run "type"
  t.eq(socket, nil, pattern)
  t.error(err, "EINVAL", pattern)
  t.match(err.message, path:gsub("%p", "%%%0"))
  p:close()
end

local function names(t)
  local list = {}
  for name in io.popen(("ls -A '%s'"):format(t:tmp())):lines() do list[#list + 1] = name end
  return table.concat(list, " ")
end

-- ---- saving ----

image_story("a save that is killed leaves the old file or the new one, and nothing else", function(t)
  local path = saved(t, "image", "which = 0")
  t.eq(names(t), "image")
  for i = 1, 8 do
    local p = fork.new_exec():eval("which = ... filler = {} for i = 1, 30000 do filler[i] = {i} end", i)
    t.got(p:memory())
    local done
    p:save(path, function(err) done = err or true end)
    fork.step(0)
    for _ = 1, i do if not done then fork.step(0.001) end end -- at another moment each time
    kit.kill(p:pid(), kit.SIGKILL)
    t.within(10, function() fork.step(0.02) return done end)
    p:close()
    local q = fork.load(path)
    local which = tonumber(t.ask(q:fork(), "return which"))
    t.ok(which <= i and (done ~= true or which == i), which)
    q:close()
  end
  local p = fork.new_exec():eval "which = 9" -- it removes what a file system without O_TMPFILE has kept
  t.eq(p:save(path), true)
  p:close()
  t.eq(names(t), "image")
end)

image_story("what a killed save has left is removed by the next, and nothing else", function(t)
  local stale, theirs = t:file("image.moonfork-a1B2c3", "part"), t:file("image.backup", "theirs")
  os.execute(("chmod 600 '%s' '%s'"):format(stale, theirs))
  saved(t)
  t.eq(names(t), "image image.backup")
end)

image_story("targets that are no files, and folders that are none", function(t)
  local p = fork.new_exec():eval "which = 'saved'"
  local function fails(path, pattern)
    local ok, err = p:save(path)
    t.eq(ok, nil, path)
    t.error(err, "EINVAL", pattern)
    t.match(err.message, path:gsub("%p", "%%%0"))
  end
  local folder = t:tmp()
  fails(folder, "Is a directory")
  fails(folder .. "/", "Is a directory")
  fails("/dev/null", "is no file")
  fails(t:file("x", "text") .. "/y", "Not a directory")
  fails(folder .. "/" .. ("n"):rep(256), "File name too long")
  os.execute(("mkfifo '%s/fifo'"):format(folder))
  fails(folder .. "/fifo", "is no file")
  os.remove(folder .. "/fifo")
  -- A link is replaced itself.
  os.execute(("ln -s x '%s/link'"):format(folder))
  t.eq(p:save(folder .. "/link"), true)
  t.eq(t.read(folder .. "/x"), "text")
  t.eq(t.ask(fork.load(folder .. "/link"):fork(), "return which"), "saved")
  t.eq(names(t), "link x")
  local long = folder .. "/" .. ("n"):rep(255)
  for _ = 1, 2 do t.eq(p:save(long), true) end
  t.eq(t.ask(fork.load(long):fork(), "return which"), "saved")
  t.got(p:fork():run "type")
end)

image_story("a folder that may not be written to", {user = true}, function(t)
  local folder = t:tmp() .. "/closed"
  os.execute(("mkdir -m 500 '%s'"):format(folder))
  local p = fork.new_exec()
  local ok, err = p:save(folder .. "/image")
  t.eq(ok, nil)
  t.error(err, "EINVAL", "Permission denied")
  t.got(p:fork():run "type")
  os.execute(("chmod 300 '%s'"):format(folder)) -- not to be listed
  t.eq(p:save(folder .. "/image"), true)
  t.eq(p:save(folder .. "/image"), true)
  os.execute(("chmod 700 '%s'"):format(folder))
end)

image_story("a limit on files is an error, not the end of the process", function(t)
  local path = saved(t, "image", "which = 'old'")
  local p = fork.new_exec():limit{fsize = 8192}
  local ok, err = p:save(path)
  t.eq(ok, nil)
  t.error(err, "LIMIT", "File too large")
  t.got(p:fork():run "type")
  t.eq(names(t), "image")
  t.eq(t.ask(fork.load(path):fork(), "return which"), "old")
end)

image_story("no descriptors left is a limit, not a wrong path", function(t)
  local path = saved(t, "image", "which = 'old'")
  local p = fork.new_exec():limit{nofile = 3} -- it has more: none can be opened
  for _ = 1, 2 do
    local ok, err = p:save(path)
    t.eq(ok, nil)
    t.error(err, "LIMIT", "Too many open files")
  end
  p:close()
  t.eq(names(t), "image")
  t.eq(t.ask(fork.load(path):fork(), "return which"), "old")
end)

image_story("a full disk leaves the old file, and nothing else", {root = true}, function(t)
  local folder = t:tmp() .. "/small"
  local script = t:file("script.lua", ([[
    local fork = require "moonfork"
    local path = %q
    assert(fork.new_exec():eval "which = 'old'":save(path .. "/image"))
    local p = fork.new_exec():eval "filler = ('x'):rep(8 << 20)"
    local ok, err = p:save(path .. "/image")
    assert(not ok and err.code == "LIMIT" and err.message:find "No space left", tostring(err))
    local q = fork.load(path .. "/image"):eval "assert(which == 'old')"
    assert(q:memory())
    for name in io.popen("ls -A " .. path):lines() do io.write(name, " ") end]]):format(folder))
  local pipe = io.popen(("mkdir '%s'; unshare -m sh -c 'mount -t tmpfs -o size=4m small \"%s\" && exec %s \"%s\"' 2>&1")
    :format(folder, folder, os.getenv "LUA" or "lua5.4", script))
  local text = pipe:read "a"
  pipe:close()
  if text:find "unshare:" or text:find "mount:" then t.skip(text) end
  t.eq(text, "image ")
end)

-- ---- loading ----

image_story("what is no file, or open to others, is refused by name", function(t)
  local path = saved(t)
  local folder = t:tmp()
  refused(t, folder, "no file")
  os.execute(("mkfifo -m 600 '%s/fifo'"):format(folder))
  refused(t, folder .. "/fifo", "no file") -- at once
  refused(t, "/dev/null", "no file")
  for _, mode in ipairs{"620", "602", "660", "666", "777"} do
    os.execute(("chmod %s '%s'"):format(mode, path))
    refused(t, path, "others may write to it")
  end
  os.execute(("chmod 444 '%s'; ln -s image '%s/link'"):format(path, folder))
  t.eq(t.ask(fork.load(folder .. "/link"):fork(), "return check()"), 2)
  for _, mode in ipairs{"707", "777"} do
    os.execute(("mkdir -p '%s/open'; cp '%s' '%s/open/x'; chmod %s '%s/open'; ln -sf open/x '%s/link'"):format(folder,
      path, folder, mode, folder, folder))
    refused(t, folder .. "/open/x", "others may write to its folder")
    refused(t, folder .. "/link", "others may write to its folder")
  end
  -- Of the group that this process has: what mkdir makes with the umask 002.
  for _, mode in ipairs{"1777", "775", "770"} do
    os.execute(("chmod %s '%s/open'"):format(mode, folder))
    t.eq(t.ask(fork.load(folder .. "/link"):fork(), "return check()"), 2)
    t.eq(t.ask(fork.load(folder .. "/open/x"):fork(), "return check()"), 2)
  end
end)

image_story("a folder that another group may write to is refused", {root = true}, function(t)
  local path, folder = saved(t), t:tmp()
  os.execute(("mkdir '%s/open'; cp '%s' '%s/open/x'; chgrp 65534 '%s/open'; chmod 775 '%s/open'"):format(folder, path,
    folder, folder, folder))
  refused(t, folder .. "/open/x", "others may write to its folder")
  os.execute(("chmod 755 '%s/open'"):format(folder))
  t.eq(t.ask(fork.load(folder .. "/open/x"):fork(), "return check()"), 2)
end)

-- Who owns a folder may replace what lies in it, also where the sticky bit is set.
image_story("a folder that belongs to another user is refused", {root = true}, function(t)
  local path, folder = saved(t), t:tmp()
  os.execute(("cd '%s' && mkdir theirs && cp '%s' theirs/x && chown 65534 theirs && ln -s theirs/x link"):format(folder,
    path))
  for _, mode in ipairs{"755", "700", "1777"} do
    os.execute(("chmod %s '%s/theirs'"):format(mode, folder))
    refused(t, folder .. "/theirs/x", "its folder .* belongs to another user")
    refused(t, folder .. "/link", "its folder .* belongs to another user")
  end
  os.execute(("ln -s '%s' '%s/theirs/link'"):format(path, folder))
  refused(t, folder .. "/theirs/link", "its folder .* belongs to another user") -- its name is theirs
  os.execute(("chown 0 '%s/theirs'"):format(folder))
  t.eq(t.ask(fork.load(folder .. "/theirs/x"):fork(), "return check()"), 2)
end)

image_story("it belongs to who loads it, or to root", {root = true}, function(t)
  local path = saved(t, "image", "function hello(s) s:write 'hello' end")
  local folder = t:tmp()
  local function as_user(file)
    return program.run(("run --image '%s' hello"):format(file),
      {env = "exec setpriv --reuid 65534 --regid 65534 --clear-groups"})
  end
  os.execute(("chmod 755 '%s'; chmod 644 '%s'; for i in 65534 1; do cp '%s' '%s/'$i; chown $i '%s/'$i; done"):format(
    folder, path, path, folder, folder))
  local out, err, code = as_user(path)
  if err:find "Permission denied" then t.skip(err) end
  t.eq({out, err, code}, {"hello", "", 0})
  out, err, code = as_user(folder .. "/65534")
  t.eq({out, err, code}, {"hello", "", 0})
  out, err, code = as_user(folder .. "/1")
  t.eq({out, code}, {"", 126})
  t.match(err, "belongs to another user")
  refused(t, folder .. "/1", "belongs to another user")
  refused(t, folder .. "/65534", "belongs to another user")
end)

image_story("another build of the program, of a library or of a C module is named", function(t)
  local path, bad = saved(t), t:file "bad"
  local f = image_file.read(path)
  local seen = {}
  t.ok(#f.libraries >= 2)
  for i, library in ipairs(f.libraries) do
    local name = library.path == "" and "the template program" or library.path
    seen[#seen + 1] = name:match "[^/]*$"
    for _, at in ipairs{1, #library.id} do
      local g = image_file.read(path)
      g:set_id(i, library.id:sub(1, at - 1) .. string.char(library.id:byte(at) ~ 1) .. library.id:sub(at + 1))
      g:write(bad)
      refused(t, bad, name:gsub("%p", "%%%0") .. " is another build")
    end
  end
  t.match(table.concat(seen, " "), "objects%.so")
  t.match(table.concat(seen, " "), "the template program")
  f:write(bad) -- the checksum is as the program makes it
  t.eq(f.text, t.read(path))
end)

-- As of a linker that writes no build ids: all of the file counts.
image_story("a C module without a build id is known by its contents", function(t)
  local path, module = t:file "image", t:file "plain.so"
  local original = t.read(package.searchpath("objects", package.cpath))
  local plain, n = original:gsub("(\4%z%z%z[^%z]%z%z%z)\3(%z%z%zGNU%z)", "%1\99%2")
  if n == 0 then t.skip "the modules here have no build ids" end
  local function put(text) -- another file under that name: this one may be in use
    local file = assert(io.open(module .. ".new", "wb"))
    file:write(text)
    file:close()
    assert(os.rename(module .. ".new", module))
  end
  put(plain)
  local p = fork.new_exec():eval(("new = assert(package.loadlib(%q, 'luaopen_objects'))().new"):format(module))
  t.got(p:save(path))
  p:close()
  t.eq(t.ask(fork.load(path):fork(), "return type(new)"), "function")
  put(plain .. "\0")
  refused(t, path, module:gsub("%p", "%%%0") .. " is another build")
  put(plain)
  t.eq(t.ask(fork.load(path):fork(), "return type(new)"), "function")
end)

image_story("each number of the header is looked at", function(t)
  local path, bad = saved(t, "image", ""), t:file "bad"
  local f = image_file.read(path)
  for name, pattern in pairs{version = "another version of moonfork", order = "another kind of machine",
    word = "another kind of machine", page = "another kind of machine", header_size = "another build of moonfork",
    record_size = "another build of moonfork", base = "damaged", region = "damaged", zone = "damaged",
    open = "damaged", server = "damaged", program = "damaged", file_size = "cut off", meta_size = "damaged",
    nobjects = "damaged",
    npatches = "damaged", nparts = "damaged", ntables = "damaged", nhooks = "damaged"} do
    local g = image_file.read(path)
    g:set(name, f:get(name) + (name == "server" and 3 or 1))
    g:write(bad)
    refused(t, bad, pattern)
  end
  for _, name in ipairs{"bits_sum", "content_sum"} do
    local g = image_file.read(path)
    g:set(name, f:get(name) + 1)
    g:write(bad)
    refused(t, bad, "checksum", {verify = true})
  end
end)

image_story("each number of the tables is looked at", function(t)
  local path, bad = saved(t), t:file "bad"
  local large = string.pack("=I8", 1 << 50)
  for _, case in ipairs{
    {"objects", 8, string.pack("=I4", 1 << 30), "a library's name"}, {"objects", 12, string.pack("=I4", 1 << 30),
      "a library's name"}, {"objects", 16, string.pack("=I4", 33), "a library's name"},
    {"patches", 0, large, "an address"}, {"patches", 0, "\1", "an address"},
    {"patches", 16, string.pack("=I4", 1 << 20), "an address"}, {"patches", 20, string.pack("=I4", 2), "an address"},
    {"parts", 0, large, "its heap"}, {"parts", 8, large, "its heap"}, {"parts", 16, large, "its heap"},
    {"parts", 24, large, "its heap"}, {"parts", 8, string.pack("=I8", 0), "its heap"},
    {"parts", 16, string.pack("=I8", 0), "its heap"}, {"parts", 32, string.pack("=I8", 0), "its heap"},
    {"tables", 0, large, "a table"}, {"tables", 0, "\3", "a table"},
    {"hooks", 0, large, "a userdata"}, {"hooks", 0, "\3", "a userdata"},
  } do
    local f = image_file.read(path)
    t.ok(f:get("n" .. case[1]) > 0, case[1])
    f:put(f:offset(case[1]) + case[2], case[3])
    f:write(bad)
    refused(t, bad, "damaged: .*" .. case[4])
  end
end)

-- In one program: --check of many files would take a process each.
image_story("cut at every place, and altered anywhere, it is refused", function(t)
  local path, bad = saved(t, "image", ""), t:file "bad"
  local whole = t.read(path)
  local f = image_file.read(path)
  local meta, step = f:get "meta_size", #whole // 12
  local places = {0, 1, 7, 8, 12, f:get "header_size" - 1, f:get "header_size", meta - 1, meta, meta + 1, #whole - 1}
  for at = step, #whole - 1, step do places[#places + 1] = at end
  local function write(text)
    local file = assert(io.open(bad, "wb"))
    file:write(text)
    file:close()
    os.execute(("chmod 600 '%s'"):format(bad))
  end
  for _, n in ipairs(places) do
    write(whole:sub(1, n))
    refused(t, bad, n < f:get "header_size" and "no image" or "cut off")
  end
  math.randomseed(4711)
  for i = 1, 30 do -- a third of them in the header and its tables
    local at = i % 3 == 0 and math.random(0, meta - 1) or math.random(meta, #whole - 1)
    write(whole:sub(1, at) .. string.char(whole:byte(at + 1) ~ 1 << math.random(0, 7)) .. whole:sub(at + 2))
    refused(t, bad, at < 8 and "no image" or "", {verify = true})
  end
end)

image_story("where its address is taken it is moved, and is the same", function(t)
  local path = saved(t)
  local f, other = image_file.read(path), image_file.occupied(t, path)
  local here = fork.load(path)
  local at_home = t.ask(here:fork(), "return ('%p'):format(data)")
  for _ = 1, 2 do
    local q = fork.new_exec{image = path, program = other}
    local there = t.ask(q:fork(), "return ('%p'):format(data)")
    local distance = math.tointeger(tonumber(there)) - math.tointeger(tonumber(at_home))
    t.ok(distance ~= 0 and distance % (1 << 32) == 0, there)
    for _ = 1, 2 do t.eq(t.ask(q:fork(), "return check()"), 2) end
    q:eval "data[1].text = 'changed' data[1].text = 's' collectgarbage()"
    t.eq(t.ask(q:fork(), "return check()"), 2)
    local again = t:file "again" -- and saved from there
    t.eq(q:save(again), true)
    t.eq(t.ask(fork.load(again):fork(), "return check()"), 2)
    t.eq(t.ask(q:fork{isolation = "thread"}, "return check()"), 2)
    q:close()
  end
  -- The tables of pointers are compared when they are used, also without verify.
  f:put(f:get "meta_size" + 64, string.char(f.text:byte(f:get "meta_size" + 65) ~ 1))
  local bad = t:file "bad"
  f:write(bad)
  refused(t, bad, "tables of pointers", {program = other})
  t.eq(t.ask(fork.load(bad):fork(), "return check()"), 2)
  refused(t, bad, "tables of pointers", {verify = true})
end)

story.done()
