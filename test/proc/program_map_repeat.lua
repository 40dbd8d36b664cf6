-- `moonfork map`: calls that are repeated, and what a job log may say. The program is run as a shell
-- runs it.
local story = require "story"
local kit = story.kit
local program = require "program"
story.census = false

local function map(words, options) return program.run("map " .. words, options) end

local function numbers(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return table.concat(list, "\n") .. "\n"
end

-- Lines 2, 4, 6 and 8 raise at first; when they are repeated, each waits until another one is. (Not for
-- all: a line may have to wait behind one that waits.)
local TOGETHER = [[-e 'local room = "%s/"
  local function there(name) local f = io.open(room .. name) if f then f:close() end return f ~= nil end
  local function make(name) io.open(room .. name, "w"):close() end
  function f(x)
    if tonumber(x) %% 2 == 1 then return x end
    if not there(x .. "first") then make(x .. "first") error "again" end
    make(x .. "second")
    local deadline = os.time() + 20
    while os.time() < deadline do
      for _, other in ipairs{"2", "4", "6", "8"} do
        if other ~= x and there(other .. "second") then return x end
      end
    end
    error("line " .. x .. " is repeated alone", 0)
  end' f]]

story.test("lines are repeated at the same time; the order of the output stays", {deadline = 60}, function(t)
  local room = t:file "ordered"
  os.execute("mkdir " .. room)
  local out, err, code = map("-j 9 --chunk 1 --retry 1 " .. TOGETHER:format(room), {stdin = numbers(9)})
  t.eq(err, "")
  t.eq(out, numbers(9))
  t.eq(code, 0)
end)

story.test("the same without an order, with tags", {deadline = 60}, function(t)
  local room = t:file "unordered"
  os.execute("mkdir " .. room)
  local out, err, code = map("-j 9 --chunk 1 --unordered --tag --retry 1 " .. TOGETHER:format(room),
    {stdin = numbers(9)})
  t.eq(err, "")
  t.eq(code, 0)
  local lines = {}
  for line in out:gmatch "[^\n]+" do lines[#lines + 1] = line end
  table.sort(lines)
  t.eq(lines, {"1\t1", "2\t2", "3\t3", "4\t4", "5\t5", "6\t6", "7\t7", "8\t8", "9\t9"})
end)

story.test("a line that is repeated in vain ends the run where it stands, and no later answer is written",
  function(t)
    for _, order in ipairs{"", "--unordered"} do
      local out, err, code = map(("%s --chunk 3 --retry 3 -e 'function f(x) if x == \"5\" then error(\"no\", 0) "
        .. "end return x end' f"):format(order), {stdin = numbers(5)})
      t.eq(out, "1\n2\n3\n4\n", order)
      t.eq(err, "moonfork map: line 5: no\n")
      t.eq(code, 1)
    end
    local out, err, code = map([[--retry 2 -e 'function f(x) if x == "5" then error("no", 0) end return x end' f]],
      {stdin = numbers(2000)})
    t.eq({out, err, code}, {"1\n2\n3\n4\n", "moonfork map: line 5: no\n", 1})
  end)

-- Each waited for a worker for ever, and so did Ctrl-C.
story.test("no worker can be started: the run ends with the reason, not line by line", function(t)
  local hook = [[-e 'local c = require "moonfork.clone"
    function f(x) return x end c.on_fork(function() %s end)' f]]
  for _, words in ipairs{"", "--keep-going --retry 2 --tag", "--unordered --chunk 1", "--joblog " .. t:file "log"} do
    local out, err, code = map("-j 6 " .. words .. " " .. hook:format 'error("no database", 0)', {stdin = numbers(20)})
    t.eq({out, err, code}, {"", "moonfork map: the pool has failed; the last reason: no database\n", 126}, words)
  end
  local _, err, code = map("-j 6 " .. hook:format "c.kill(c.pid(), 9)", {stdin = numbers(20)})
  t.match(err, "^moonfork map: the pool has failed; [^\n]*signal 9[^\n]*\n$")
  t.eq(code, 1)
end)

story.test("many lines that fail once each, with a job log: each is told once, in order", function(t)
  local log = t:file "log"
  local out, err, code = map(([[-j 3 --retry 1 --joblog %s -e 'local seen = {} function f(x)
    local first = not seen[x] seen[x] = true
    if first and tonumber(x) %% 7 == 0 then error "again" end return x end' f]]):format(log), {stdin = numbers(700)})
  -- a worker that did not see the first try raises, too: then the second was in vain
  local told = {}
  for n in err:gmatch "line (%d+)" do told[#told + 1] = n end
  t.eq(code, #told > 0 and 1 or 0)
  local rows = {}
  for row in t.read(log):gmatch "[^\n]+" do
    local n, status = row:match "^(%d+)\t[^\t]+\t[^\t]+\t[^\t]+\t(%l+)\t"
    if n then rows[#rows + 1] = {tonumber(n), status} end
  end
  for i, row in ipairs(rows) do t.eq(row[1], i) end
  local written = select(2, out:gsub("\n", ""))
  t.eq(written + #told, #rows)
  t.eq(out, numbers(written))
end)

story.test("what waits for a line that is repeated is bounded", {deadline = 60}, function(t)
  local first, go = t:file "first", t:file "go"
  local code = ([[-e 'local function there(name) local f = io.open(name) if f then f:close() end return f end
    function f(x)
      if x == "1" then
        if not there "%s" then io.open("%s", "w"):close() error "again" end
        while not there "%s" do end
      end
      return (x .. " "):rep(1000 // #x)
    end' f]]):format(first, first, go)
  local running = program.start(t, "map -j 3 --retry 1 " .. code .. " " .. t:file("in", numbers(60000)))
  local function memory()
    return tonumber((t.read("/proc/" .. running.pid .. "/status") or ""):match "VmRSS:%s*(%d+)") or 0
  end
  local before, same = 0, 0
  t.outside(30, function()
    local now = memory()
    same = now == before and t.read(first) and same + 1 or 0
    before = now
    kit.msleep(20)
    return same > 20
  end, "it waits")
  if story.scale == 1 then t.ok(before < 45000, before .. " KiB") end
  t.eq(running.out(), "")
  io.open(go, "w"):close()
  t.eq(running:wait(), 0)
  t.eq(select(2, running.out():gsub("\n", "")), 60000)
  t.eq(running.out():match "^1 1 1", "1 1 1")
end)

-- The log was written through a buffer of its own, which could run over before the answers were out.
story.test("nothing is in the job log whose answer is not out yet", {deadline = 60}, function(t)
  local log, fifo, written_to = t:file "log", t:file "fifo", t:file "out"
  os.execute("mkfifo " .. fifo)
  local reader = io.popen("exec 3<" .. fifo .. "; read go; exec cat <&3 >" .. written_to, "w")
  local pid_file = t:file "pid"
  local code = [[function f(x) return x .. (\"x\"):rep(60) end]]
  os.execute(([[sh -c 'echo $$ >%s; exec %s map --joblog %s -e "%s" f %s' >%s &]]):format(pid_file, program.path, log,
    code, t:file("in", numbers(20000)), fifo))
  t.outside(20, function() return #(t.read(log) or "") > 1000 end, "the first answers are recorded")
  -- the pipe is full: what is recorded from now on could not be written
  local size
  t.outside(20, function()
    local before = size
    size = #t.read(log)
    return size == before
  end, "the run waits for its reader")
  kit.kill(tonumber(t.read(pid_file)), kit.SIGKILL)
  reader:write "go\n"
  reader:close()
  local out, recorded = t.read(written_to) or "", 0
  local written = {}
  for n in out:gmatch "(%d+)x+\n" do written[n] = true end
  for n in t.read(log):gmatch "\n(%d+)\t[^\n]*\tok\t" do
    recorded = recorded + 1
    t.ok(written[n], "line " .. n .. " is recorded and was not written")
  end
  t.ok(recorded > 10)
end)

story.test("a job log that can't be written ends the run with a line that names it", function(t)
  local out, err, code = map("--joblog /dev/full -e 'function f(x) return x end' f", {stdin = numbers(5000)})
  t.eq(code, 1)
  t.match(err, "^moonfork map: /dev/full can't be written %(is the disk full%?%)\n$")
  t.ok(#out < #numbers(5000) or out == numbers(5000))
end)

story.done()
