-- `moonfork map`: lines in, answers out. The program is run as a shell runs it.
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

local SQUARE = [[-e 'function square(x) return math.tointeger(x * x) end' square]]
local ODD = [[-e 'function odd(x) if x % 2 == 0 then error("even: " .. x, 0) end return x end' odd]]

-- The children of a program that was run with this in its environment.
local marked = "PROGRAM_STORY=map" .. kit.getpid()
local function nobody_left(t) program.nobody_left(t, marked) end

story.test("each line is a call, each answer a line, in the order of the input", function(t)
  local out, err, code = map("-j 4 " .. SQUARE, {stdin = numbers(5000)})
  t.eq(err, "")
  t.eq(code, 0)
  local expected = {}
  for i = 1, 5000 do expected[i] = i * i end
  t.ok(out == table.concat(expected, "\n") .. "\n")
end)

story.test("answers that no text can show are told by their line", function(t)
  local out, err, code = map([[-e 'function f(x) return x == "b" and {} or x end' f]], {stdin = "a\nb\n"})
  t.eq({out, code}, {"a\n", 1})
  t.match(err, "^moonfork map: line 2: result 1 is a table, which a line of text can't show: ")
end)

story.test("answers: several values, none, nil, numbers, no newline at the end", function(t)
  local out, err, code = map([[-e 'function f(x) if x == "a" then return 1, nil, "z" end
    if x == "b" then return end if x == "c" then return nil end return 2.5 end' f]], {stdin = "a\nb\nc\nd"})
  t.eq(err, "")
  t.eq(code, 0)
  t.eq(out, "1\t\tz\n\n\n2.5\n")
end)

story.test("files, one after the other, and standard input among them", function(t)
  local a, b = t:file("a", "1\n2\n"), t:file("b", "4\n")
  local out, err, code = map(SQUARE .. (" %s - %s"):format(a, b), {stdin = "3\n"})
  t.eq(err, "")
  t.eq(code, 0)
  t.eq(out, "1\n4\n9\n16\n")
end)

story.test("empty input is no output", function(t)
  local out, err, code = map(SQUARE, {stdin = ""})
  t.eq({out, err, code}, {"", "", 0})
end)

story.test("--unordered gives every answer once", function(t)
  local out, _, code = map("--unordered -j 3 " .. SQUARE, {stdin = numbers(1000)})
  t.eq(code, 0)
  local seen, n = {}, 0
  for answer in out:gmatch "%d+" do
    t.ok(not seen[answer])
    seen[answer], n = true, n + 1
  end
  t.eq(n, 1000)
end)

story.test("a failing line ends the run with its number and message", function(t)
  local out, err, code = map(ODD, {stdin = "1\n2\n3\n"})
  t.eq(out, "1\n")
  t.eq(err, "moonfork map: line 2: even: 2\n")
  t.eq(code, 1)
end)

story.test("--keep-going and --max-failures", function(t)
  local out, err, code = map("--keep-going " .. ODD, {stdin = numbers(6)})
  t.eq(out, "1\n3\n5\n")
  t.eq(err, "moonfork map: line 2: even: 2\nmoonfork map: line 4: even: 4\nmoonfork map: line 6: even: 6\n")
  t.eq(code, 1)
  out, err, code = map("--max-failures 2 " .. ODD, {stdin = numbers(1000)})
  t.eq(out, "1\n3\n")
  t.eq(err, "moonfork map: line 2: even: 2\nmoonfork map: line 4: even: 4\n")
  t.eq(code, 1)
end)

story.test("a worker that dies costs the line that it was at", function(t)
  local out, err, code = map([[--keep-going -e 'local c = require "moonfork.clone"
    function f(x) if x == "7" then c.kill(c.pid(), 9) end return x end' f]], {stdin = numbers(20)})
  t.eq(code, 1)
  t.match(err, "^moonfork map: line 7: [^\n]*signal 9[^\n]*\n$")
  local expected = {}
  for i = 1, 20 do if i ~= 7 then expected[#expected + 1] = i end end
  t.eq(out, table.concat(expected, "\n") .. "\n")
end)

story.test("--retry repeats what raised or died, at most N times", function(t)
  local count = t:file "count"
  local fails = ([[-e 'local function tries() local f = io.open("%s", "a+") f:write "x" f:seek "set"
    local n = #f:read "a" f:close() return n end
    function f(x) if x == "3" and tries() < 3 then %s end return x end' f]])
  for _, how in ipairs{'error "again"', 'os.exit(9)'} do
    os.remove(count)
    local out, err, code = map("--retry 2 " .. fails:format(count, how), {stdin = numbers(5)})
    t.eq(err, "", how)
    t.eq(out, numbers(5))
    t.eq(code, 0)
  end
  os.remove(count)
  local out, err, code = map("--retry 1 " .. fails:format(count, 'error("again", 0)'), {stdin = numbers(5)})
  t.eq(out, "1\n2\n")
  t.eq(err, "moonfork map: line 3: again\n")
  t.eq(code, 1)
  t.eq(#t.read(count), 2)
end)

story.test("--timeout ends the call that takes too long, and no other", {deadline = 30}, function(t)
  local out, err, code = map([[--keep-going --timeout 0.3 -e 'function f(x) if x == "2" then
    while true do end end return x end' f]], {stdin = numbers(4)})
  t.eq(out, "1\n3\n4\n")
  t.match(err, "^moonfork map: line 2: [^\n]*\n$")
  t.eq(code, 1)
end)

story.test("--null: records may hold newlines", function(t)
  local out, err, code = map([[--null -e 'function f(x) return "<" .. x .. ">" end' f]],
    {stdin = "a\nb\0\0c"})
  t.eq(err, "")
  t.eq(code, 0)
  t.eq(out, "<a\nb>\0<>\0<c>\0")
end)

-- In one chunk and in many, with answers that have several values and lines that fail between them.
story.test("--tag puts each line before its own answer, also around lines that fail", function(t)
  local expected, failing = {}, 0
  for i = 1, 500 do
    if i % 7 == 3 or i == 1 or i == 500 then failing = failing + 1
    else expected[#expected + 1] = ("%d\tv%d\t%d"):format(i, i, -i) end
  end
  local given = numbers(500)
  for _, words in ipairs{"--chunk 1000", "--chunk 50", "--retry 1", "--unordered --chunk 9"} do
    local out, err, code = map("-j 2 --keep-going --tag " .. words .. [[ -e 'function f(x)
      local n = math.tointeger(x)
      if n % 7 == 3 or n == 1 or n == 500 then error("no", 0) end
      return "v" .. x, -n end' f]], {stdin = given})
    local lines = {}
    for line in out:gmatch "[^\n]+" do lines[#lines + 1] = line end
    if words:find "unordered" then
      table.sort(lines, function(a, b) return tonumber(a:match "%d+") < tonumber(b:match "%d+") end)
    end
    t.eq(lines, expected)
    t.eq(code, 1)
    t.eq(select(2, err:gsub("\n", "")), failing)
  end
end)

story.test("--tag and --chunk", function(t)
  local out, _, code = map("--tag --chunk 3 " .. SQUARE, {stdin = numbers(7)})
  t.eq(code, 0)
  t.eq(out, "1\t1\n2\t4\n3\t9\n4\t16\n5\t25\n6\t36\n7\t49\n")
end)

story.test("--json: a value per line, in and out", {needs = "cjson"}, function(t)
  local out, err, code = map([[--json --keep-going -e 'function f(v) if v == 1 then return nil end
    return {n = type(v) == "table" and #v.list or v} end' f]], {stdin = '{"list":[1,2,3]}\n"x"\n1\n{nope\n'})
  t.eq(out, '{"n":3}\n{"n":"x"}\nnull\n')
  t.match(err, "^moonfork map: line 4: the line is not JSON: [^\n]*\n$")
  t.eq(code, 1)
end)

local function rows(t, path)
  local list = {}
  for row in (t.read(path) or ""):gmatch "([^\n]*)\n" do list[#list + 1] = row end
  return list
end

story.test("--joblog records each call, --resume repeats only what is not done", function(t)
  local log, calls = t:file "log", t:file "calls"
  local code_of = function(extra) return ([[-e 'function f(x) local c = io.open("%s", "a") c:write(x, "\n")
    c:close() %s return x .. "!" end' f]]):format(calls, extra) end
  local out, err, code = map("--keep-going --joblog " .. log .. " " ..
    code_of [[if x == "3" then error("not\tyet", 0) end]], {stdin = numbers(5)})
  t.eq(out, "1!\n2!\n4!\n5!\n")
  t.eq(err, "moonfork map: line 3: not\tyet\n")
  t.eq(code, 1)
  local list = rows(t, log)
  t.eq(list[1], "line\tstart\tduration\tworker\tstatus\thash\tmessage")
  t.eq(#list, 6)
  local now = os.time()
  for i = 2, 6 do
    local n, start, duration, worker, status, hash, message =
      list[i]:match "^(%d+)\t([%d.]+)\t([%d.]+)\t(%d+)\t(%l+)\t(%x+)\t(.*)$"
    t.eq(tonumber(n), i - 1)
    t.ok(math.abs(tonumber(start) - now) < 100)
    t.ok(tonumber(duration) < 10)
    t.ok(tonumber(worker) > 1)
    t.eq(status, n == "3" and "error" or "ok")
    t.eq(#hash, 16)
    t.eq(message, n == "3" and "not yet" or "")
  end
  os.remove(calls)
  out, err, code = map("--resume " .. log .. " " .. code_of "", {stdin = numbers(7)})
  t.eq({out, err, code}, {"3!\n6!\n7!\n", "", 0})
  local called = {}
  for n in t.read(calls):gmatch "%d" do called[#called + 1] = n end
  table.sort(called)
  t.eq(called, {"3", "6", "7"})
  t.eq(#rows(t, log), 9)
  -- The same input once more has nothing to do; another one is refused.
  out, err, code = map("--resume " .. log .. " " .. code_of "", {stdin = numbers(7)})
  t.eq({out, err, code}, {"", "", 0})
  out, err, code = map("--resume " .. log .. " " .. code_of "", {stdin = "1\nother\n"})
  t.eq(out, "")
  t.match(err, "is the job log of another input: line 2 differs\n$")
  t.eq(code, 1)
end)

story.test("a run that was killed is continued: each answer once", {deadline = 40}, function(t)
  local log, calls = t:file "log", t:file "calls"
  local words = ([[map -j 2 --%%s %s -e 'function f(x) local c = io.open("%s", "a") c:write(x, "\n")
    c:close() local t = os.clock() while os.clock() < t + 0.002 do end return x end' f %s]])
    :format(log, calls, t:file("in", numbers(600)))
  local running = program.start(t, words:format "joblog", {env = marked})
  t.outside(10, function() return #rows(t, log) > 50 end)
  running:kill(kit.SIGKILL)
  t.eq(running:wait(), 137)
  nobody_left(t)
  local f = io.open(log, "a")
  f:write "77\t1.5\t0.0" -- torn by the kill
  f:close()
  local recorded = {}
  for _, row in ipairs(rows(t, log)) do
    local n = row:match "^(%d+)\t.*\tok\t"
    if n then recorded[n] = true end
  end
  local out, err, code = program.run(words:format "resume")
  t.eq({err, code}, {"", 0})
  local count = 0
  for n in out:gmatch "%d+" do
    t.ok(not recorded[n], "line " .. n .. " was recorded as done")
    recorded[n], count = true, count + 1
  end
  for i = 1, 600 do t.ok(recorded[tostring(i)], "line " .. i) end
  t.ok(count < 560)
end)

story.test("answers come as soon as the input: a pipe that is slow", function(t)
  local fifo = t:file "fifo"
  os.execute("mkfifo " .. fifo)
  local running = program.start(t, "map " .. SQUARE .. " " .. fifo)
  local f = io.open(fifo, "w")
  f:setvbuf "no"
  for i = 1, 5 do
    f:write(i, "\n")
    t.outside(10, function() return select(2, running.out():gsub("\n", "")) == i end, "answer " .. i)
  end
  f:close()
  t.eq(running:wait(), 0)
  t.eq(running.out(), "1\n4\n9\n16\n25\n")
end)

story.test("endless input: a reader that has enough ends it quietly", function(t)
  local running = program.start(t, [[map -e 'function f(x) return x end' --null f]],
    {env = marked, stdin = "/dev/zero"})
  t.outside(10, function() return #running.out() > 300000 end, "it is at work")
  local status = t.read("/proc/" .. running.pid .. "/status") or ""
  t.ok((tonumber(status:match "VmRSS:%s*(%d+)") or 0) < 100000 * (story.scale > 1 and 10 or 1))
  running:kill(kit.SIGTERM)
  running:wait()
  nobody_left(t)
  local out, err = map([[-e 'function f(x) return x end' f]], {env = "yes | " .. marked, after = "| head -n 2"})
  t.eq(out, "y\ny\n")
  t.eq(err, "")
  nobody_left(t)
end)

story.test("the first interrupt finishes what is under way", function(t)
  local fifo = t:file "fifo"
  os.execute("mkfifo " .. fifo)
  local running = program.start(t, "map " .. SQUARE .. " " .. fifo, {env = marked})
  local f = io.open(fifo, "w")
  f:setvbuf "no"
  f:write "1\n2\n"
  t.outside(10, function() return running.out() == "1\n4\n" end)
  running:kill(kit.SIGINT)
  t.eq({running:wait(), running.err()}, {130, ""})
  f:close()
  t.eq(running.out(), "1\n4\n")
  t.eq(running.err(), "")
  nobody_left(t)
end)

story.test("the second interrupt kills the workers", function(t)
  local running = program.start(t, [[map -e 'function f(x) io.stderr:write "in " while true do end end' f ]] ..
    t:file("in", numbers(2)), {env = marked})
  t.outside(10, function() return running.err():find "in" end)
  running:kill(kit.SIGINT)
  kit.msleep(100)
  running:kill(kit.SIGINT)
  t.eq(running:wait(), 130)
  nobody_left(t)
end)

story.test("what can't be used, and wrong values", function(t)
  local input = t:file("input", ("1\n"):rep(50))
  for _, case in ipairs{
    {"nix", 126, "there is no global function 'nix'"},
    {SQUARE .. " /no/such/file", 126, "/no/such/file: No such file or directory"},
    {SQUARE .. " --resume /no/such/log", 126, "/no/such/log: No such file or directory"},
    {SQUARE .. " --resume /etc/passwd", 126, "/etc/passwd is not a job log of moonfork"},
    {SQUARE .. " --joblog /no/such/dir/log", 126, "/no/such/dir/log: No such file or directory"},
    {SQUARE .. " --resume /dev/zero", 126, "/dev/zero is not a job log of moonfork"},
    {SQUARE .. " --joblog " .. input, 126, "/input is not a job log of moonfork"},
    {"-j 0 f", 2, "%-%-jobs takes a whole number from 1 on, not '0'"},
    {"--timeout 0 f", 2, "%-%-timeout takes seconds, a number above 0, not '0'"},
    {"--timeout -1 f", 2, "not '%-1'"}, {"--retry x f", 2, "%-%-retry takes a whole number from 0 on, not 'x'"},
    {"--chunk 1.5 f", 2, "not '1.5'"},
  } do
    local out, err, code = map(case[1], {stdin = "1\n"})
    t.eq(out, "")
    t.match(err, "^moonfork map: [^\n]*\n$")
    t.match(err, case[3])
    t.eq(code, case[2], case[1])
  end
  t.eq(t.read(input), ("1\n"):rep(50))
end)

story.test("--progress: count, rate, workers, failures", function(t)
  local _, err, code = map([[--progress --keep-going -e 'function f(x) local t = os.clock()
    while os.clock() < t + 0.05 do end if x == "3" then error "three" end return x end' f]], {stdin = numbers(20)})
  t.match(err, "%d+ lines, %d+/s, [^\n]*%d workers?")
  t.eq(code, 1)
end)

story.done()
