-- `moonfork image`, and --image of run and map: a template in a file, made, checked, described and
-- used from the shell.
local story = require "story"
local program = require "program"
local kit = story.kit
story.census = false

local run = program.run
local FUNCTIONS = [[-e 'function hi(socket, name) socket:write("hi ", name, " ", word, "\n") end'
  -e 'function double(line) return line * factor end word, factor = "there", 2']]

local function made(t)
  local file = t:file "image"
  local out, err, code = run(("image -o '%s' %s"):format(file, FUNCTIONS:gsub("\n", " ")))
  if err:find("can't be saved: ", 1, true) and code == 1 then t.skip(err) end
  t.eq({out, err, code}, {"", "", 0})
  return file
end

story.test("an image is made, and run and map begin with it", function(t)
  local file = made(t)
  local out, err, code = run(("run --image '%s' hi you"):format(file))
  t.eq({out, err, code}, {"hi you there\n", "", 0})
  out, err, code = run(("map --image '%s' -j 2 -e 'factor = 3' double"):format(file), {stdin = "1\n2\n3\n"})
  t.eq({out, err, code}, {"3\n6\n9\n", "", 0})
end)

-- The file is the far side's.
story.test("run and map begin with an image over there by --on", function(t)
  local file = made(t)
  local folder, name = file:match "^(.*)/([^/]+)$"
  local agent = ("cd %s && exec %s agent %s #"):format(folder, os.getenv "MOONFORK_REMOTE",
    os.getenv "MOONFORK_TEMPLATE")
  local out, err, code = run(("run --on '%s' --image '%s' hi you"):format(agent, name))
  t.eq({out, err, code}, {"hi you there\n", "", 0})
  out, err, code = run(("map --on '%s' --on local --image '%s' -j 2 double"):format(agent, file), {stdin = "1\n2\n"})
  t.eq({out, err, code}, {"2\n4\n", "", 0})
  out, err, code = run(("run --on '%s' --image none hi"):format(agent))
  t.eq({out, code}, {"", 126})
  t.match(err, "^moonfork run: the image none can't be used: No such file[^\n]*\n$")
end)

story.test("--check and --info", function(t)
  local file = made(t)
  local out, err, code = run(("image --check '%s'"):format(file))
  t.eq({out, err, code}, {"", "", 0})
  out, err, code = run(("image --info '%s'"):format(file))
  t.eq({err, code}, {"", 0})
  t.match(out, "size +%d+%.%d MiB\n")
  t.match(out, "%x%x%x%x%x%x%x%x+ the template program\n")
  local text = t.read(file)
  local f = assert(io.open(file, "wb"))
  f:write(text:sub(1, -100), ("\1"):rep(99))
  f:close()
  out, err, code = run(("image --check '%s'"):format(file))
  t.eq({out, code}, {"", 126})
  t.match(err, "^moonfork image: [^\n]*image[^\n]*checksum of its contents[^\n]*\n$")
end)

story.test("run --image without a function goes on with the one that clone.hibernate has suspended", function(t)
  local plain, file = made(t), t:file "suspended"
  local out, err, code = run(([[run -e 'function f(s, file)
    local how, socket, name = require "moonfork.clone".hibernate(file)
    local s = socket or s
    s:write(how, " ", tostring(name), "\n") end' f '%s']]):format(file))
  t.eq({out, err, code}, {"saved nil\n", "", 0})
  for _ = 1, 2 do
    out, err, code = run(("run --image '%s'"):format(file))
    t.eq({out, err, code}, {"loaded nil\n", "", 0})
  end
  out, err, code = run(("run -n 2 --image '%s'"):format(file))
  t.eq({out, err, code}, {"loaded nil\nloaded nil\n", "", 0})
  out, err, code = run(("image --info '%s'"):format(file))
  t.eq({err, code}, {"", 0})
  t.match(out, "^suspended +a function")
  out, err, code = run(("run --image '%s'"):format(plain))
  t.eq({out, code}, {"", 126})
  t.match(err, "no function to go on with")
end)

story.test("what can't be made leaves the file that is there", function(t)
  local file = made(t)
  local text = t.read(file)
  for _, case in ipairs{{"-e 'error \"on purpose\"'", 126, "on purpose"}, {"-l no.such", 126, "no%.such"},
    {"-e 'file = io.open \"/dev/null\"'", 1, "'FILE%*' %(file%): .*open file"},
    {"-e 'os.exit(3)'", 126, "exit code 3"}, {"-e 'if'", 126, "near"}} do
    local out, err, code = run(("image -o '%s' %s"):format(file, case[1]))
    t.eq({out, code}, {"", case[2]}, case[1])
    t.match(err, "^moonfork image: [^\n]*" .. case[3] .. "[^\n]*\n$")
    t.ok(t.read(file) == text)
  end
  local out, err, code = run(("image -o '%s' -e 'function hi(s) s:write \"new\" end'"):format(file))
  t.eq({out, err, code}, {"", "", 0})
  t.eq({run(("run --image '%s' hi"):format(file))}, {"new", "", 0})
end)

story.test("SIGINT and SIGTERM end it: 130 and 143, the file stays, and nothing runs on", function(t)
  local file, mark = made(t), t:file "mark"
  local text = t.read(file)
  for signal, expected in pairs{[kit.SIGINT] = 130, [kit.SIGTERM] = 143} do
    os.remove(mark)
    local running = program.start(t, ([[image -o '%s' -e 'local f = io.open("%s", "w")
      f:write(require "moonfork.clone".pid()) f:close() while true do end']]):format(file, mark),
      {env = "--default-signal=INT"}) -- which a shell has ignored behind a &
    t.outside(20, function() return (t.read(mark) or ""):match "^%d+$" end, "it loads")
    local pid = tonumber(t.read(mark))
    running:kill(signal)
    t.eq(running:wait(), expected)
    t.eq(running.out(), "")
    t.outside(10, function() return not t.alive(pid) end, "the template has ended")
    t.ok(t.read(file) == text)
  end
end)

story.test("wrong usage and files that are no images", function(t)
  for _, case in ipairs{{"image", 2, "one of the options"}, {"image -o x --check y", 2, "one of the options"},
    {"image --info /no/such", 126, "No such file"}, {"image --check /no/such", 126, "No such file"},
    {"image --info '" .. program.path .. "'", 126, "no image"},
    {"image -o /no/such/folder/x", 126, "folder/x can't be saved: No such file"},
    {"image --check /tmp", 126, "no file"}, {"image --info /tmp", 126, "no image"}, {"image -o", 2, "requires"},
    {"image --info /dev/null", 126, "no image"}, {"image --check", 2, "requires"}, {"image -o x y", 2, "too many"},
    {"image -o x --info x", 2, "one of the options"}, {"image --nothing", 2, "unknown option"},
    {"image -o ''", 2, "not empty"}, {"image -o /tmp -e ''", 126, "/tmp can't be saved: Is a directory"},
    {"image -o no/such/x", 126, "no/such/x can't be saved: No such file"},
    {"image --check x -l string", 2, "need %-%-output"}, {"image --info x -e 'y = 1'", 2, "need %-%-output"},
    {"run --image /no/such f", 126, "No such file"}, {"image -o x -l no.such", 126, "no%.such"}} do
    local out, err, code = run(case[1])
    t.eq(out, "")
    t.match(err, "^moonfork[ %l]*: [^\n]*" .. case[3] .. "[^\n]*\n$")
    t.eq(code, case[2], case[1])
  end
end)

story.done()
