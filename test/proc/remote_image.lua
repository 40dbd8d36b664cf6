-- Images on the far side of a link, over `sh -c`: the agent has another directory than this program,
-- and relative paths belong to it. doc/images.md, doc/remote.md.
local story = require "story"
local fork = require "moonfork"
local image_file = require "image_file"
local image_story = require "image_story"
local remote = require "remote"

local function far_folder(t)
  local folder = t:tmp() .. "/far"
  assert(os.execute(("mkdir -m 700 '%s'"):format(folder)))
  return folder
end

local function over(folder, options)
  return remote.over(("cd '%s' && exec %s"):format(folder, remote.AGENT), options)
end

local function copy(from, to)
  assert(os.execute(("cp '%s' '%s'"):format(from, to)))
end

local function saved(t, folder, name, code)
  local p = over(folder):eval(code or "word = 'saved'")
  t.eq({p:save(name)}, {true})
  p:close()
end

image_story("save writes a file over there, which a process over there begins as", function(t)
  local folder = far_folder(t)
  local p = over(folder):send_arg("a"):eval [[
    rows = {}
    for i = 1, 20000 do rows[i] = {i} end
    count = coroutine.wrap(function() for i = 1, math.huge do coroutine.yield(i) end end)
    count()
    function f(s, ...) s:write(count(), " ", #rows, " ", table.concat({...}, ",")) end]]
  local clone, told = p:fork():eval "word = 'of a clone'", nil
  clone:save("b.image", function(err, ok) told = {err, ok} end)
  t.eq({p:save "a.image"}, {true})
  t.within(10, function() return told end)
  t.eq(told, {nil, true})
  t.eq({p:save(folder .. "/c.image")}, {true})
  t.eq(t.ask(p:fork(), "return count()"), 2) -- it goes on
  t.eq(t.read "a.image", nil)
  for name, options in pairs{["a.image"] = {}, [folder .. "/c.image"] = {verify = true},
                             ["far/a.image"] = {cwd = t:tmp()}} do
    options.image = name
    local q = over(folder, options)
    for _ = 1, 3 do t.eq(t.got(q:fork():send_arg "b":run "f"):read "a", "2 20000 a,b") end
    t.eq(t.got(q:fork():fork():run "f"):read "a", "2 20000 a")
    t.ok(q:pid() > 0)
    t.eq(t.got(q:run "f"):read "a", "2 20000 a")
    t.eq(t.status(q).code, 0)
  end
  t.eq(t.ask(over(folder, {image = "b.image"}):fork(), "return word"), "of a clone")
end)

image_story("what can't be saved over there is told, and the process goes on", function(t)
  local p = over(far_folder(t)):eval "file = io.open '/dev/null'"
  local _, err = p:save "image"
  t.error(err, "EINVAL", "'FILE%*' %(file%)")
  p:eval "file:close()"
  _, err = p:save "no/such/image"
  t.error(err, "EINVAL", "^no/such/image: No such file")
  _, err = p:save ""
  t.error(err, "EINVAL", "an empty string")
  t.eq(t.ask(p:fork(), "return io.type(file)"), "closed file")
  t.eq({p:save "image"}, {true})
end)

image_story("errors of an image over there are those of one here", function(t)
  local folder = far_folder(t)
  saved(t, folder, "good")
  copy(folder .. "/good", folder .. "/cut")
  assert(os.execute(("truncate -s 20000 '%s/cut'"):format(folder)))
  copy(folder .. "/good", folder .. "/open")
  assert(os.execute(("chmod 666 '%s/open'"):format(folder)))
  local file = image_file.read(folder .. "/good")
  file:set_id(1, ("\0"):rep(#file.libraries[1].id))
  file:write(folder .. "/other")
  copy(folder .. "/good", folder .. "/damaged")
  local f = assert(io.open(folder .. "/damaged", "r+b"))
  f:seek("end", -8)
  f:write "damaged!"
  f:close()
  for name, pattern in pairs{missing = "No such file", cut = "cut off", open = "others may write",
                             other = "another build", damaged = "checksum of its contents"} do
    local p = over(folder, {image = name, verify = true})
    local socket, err = p:fork():run "print"
    t.eq(socket, nil, name)
    t.error(err, "EINVAL", "^the image " .. name .. " can't be used: .*" .. pattern)
    t.eq(err.started, "no")
    p:close()
  end
  t.error(select(2, over(folder, {image = ""}):run "print"), "EINVAL", "an empty string")
  t.raises("option 'verify': it needs the option 'image'", fork.remote, {command = {"x"}, verify = true})
  t.raises("option 'rebuild': it needs the option 'image'", fork.remote, {command = {"x"}, rebuild = print})
  t.raises("unknown option 'program'", fork.remote, {command = {"x"}, program = "x"})
end)

image_story("rebuild fills a process over there, saves it there, and loads it the next time", function(t)
  local folder, n = far_folder(t), 0
  local function load(options)
    options = options or {}
    options.image, options.rebuild = options.image or "image", function(process)
      n = n + 1
      process:eval("made = ...", n)
    end
    local p, err = over(folder, options)
    local made = not err and t.ask(p:fork(), "return tonumber(made)")
    p:close()
    return made, err
  end
  t.eq({load(), load(), load{verify = true}, n}, {1, 1, 1, 1})
  assert(os.execute(("truncate -s 20000 '%s/image'"):format(folder)))
  t.eq({load(), load(), n}, {2, 2, 2})
  local _, err = load{image = "no/such/image"}
  t.error(err, "EINVAL", "No such file")
  t.eq(n, 3)
end)

image_story("rebuild is not called where the command or an option is at fault", function(t)
  local function rebuild() t.fail "called" end
  local p = fork.remote{command = {"sh", "-c", "exit 3"}, image = "x", rebuild = rebuild}
  t.error(select(2, p:run "print"), "TEMPLATE_START", "exit status 3")
  local file = assert(io.open "/dev/null")
  p = over(far_folder(t), {image = "x", rebuild = rebuild, stdin = file})
  t.error(select(2, p:run "print"), "UNSUPPORTED", "^the option stdin")
  file:close()
end)

image_story("a pool makes its far template again from the image, and hibernate goes on over there", function(t)
  local folder = far_folder(t)
  saved(t, folder, "image", "function f(what) if what then os.exit(3) end return word end word = 'of it'")
  local p = over(folder, {image = "image"})
  t.got(p:memory())
  local pid = p:pid()
  local pool = p:pool("f", {max = 1, backoff = {min = 0.01}})
  t.eq({pool:call()}, {"of it"})
  assert(os.execute(("kill -KILL %d"):format(pid)))
  t.error(select(2, pool:call(true)), "CLONE_DIED") -- the worker that there was
  t.within(20, function() return pool:call() == "of it" end)
  pool:close()
  local q = over(folder):eval [[
    function f(s)
      local how, socket = require "moonfork.clone".hibernate "suspended"
      ;(socket or s):write(how)
    end]]
  t.eq(t.got(q:run "f"):read "a", "saved")
  t.eq(t.got(over(folder, {image = "suspended"}):run()):read "a", "loaded")
end)

story.done()
