-- `--trace FILE` of `moonfork run`, `map` and `serve`. What is in a trace is told by trace.lua. The
-- program is run as a shell runs it.
local story = require "story"
local kit = story.kit
local program = require "program"
story.census = false

local json = require "cjson"

local ECHO = [[-e 'function f(x) return x end' f]]

local function events_of(t, path)
  local list = json.decode(t.read(path))
  local names = {}
  for _, event in ipairs(list) do
    if event.name then names[event.name] = (names[event.name] or 0) + 1 end -- not of the end of a span
  end
  return list, names
end

story.test("the timeline of a map, and of a run, is one JSON array", function(t)
  local path = t:file "map.json"
  local out, err, code = program.run("map -j 2 --trace " .. path .. " " .. ECHO, {stdin = "a\nb\n"})
  t.eq({out, err, code}, {"a\nb\n", "", 0})
  local list, names = events_of(t, path)
  t.ok(#list > 10)
  t.ok((names.fork or 0) >= 2, "two workers are forked")
  path = t:file "run.json"
  out, err, code = program.run("run -n 3 --trace " .. path .. [[ -e 'function g(s) s:write "hi\n" end' g]])
  t.eq({out, err, code}, {"hi\nhi\nhi\n", "", 0})
  list, names = events_of(t, path)
  t.ok(#list > 10)
  t.ok((names.fork or 0) >= 3, "three clones are forked")
end)

story.test("the timeline of a server: templates, workers, reloads, ends", function(t)
  local path, address = t:file "serve.json", t:file "s"
  local running = program.start(t, ("serve -n 2 --log text --trace %s --listen %s -e 'function f(c) c:read() end' f")
    :format(path, address))
  t.outside(15, function() return running.out():find " ready " end)
  running:kill(kit.SIGHUP)
  t.outside(15, function() return running.out():find " reloaded " end)
  local _, names = events_of(t, path) -- also while it runs
  t.ok(names.fork >= 4 and names.template == 2, "two workers of each template are forked")
  running:kill(kit.SIGTERM)
  t.eq(running:wait(), 143)
  _, names = events_of(t, path)
  t.eq(names["enter moonfork.serve_worker:main"], 4)
  t.ok(names.death >= 4, "all have ended")
  local out, err, code = program.run("serve --listen " .. address .. " --trace /no/such/file -e 'function f() end' f")
  t.eq({out, code}, {"", 126})
  t.match(err, "^moonfork serve: [^\n]*/no/such/file[^\n]*\n$")
end)

story.test("an interrupted program leaves a whole file, a killed one, too", function(t)
  for _, signal in ipairs{kit.SIGINT, kit.SIGKILL} do
    local path = t:file("t" .. signal)
    local running = program.start(t, ("map --chunk 1 --null --trace %s %s"):format(path, ECHO),
      {stdin = "/dev/zero"})
    t.outside(10, function() return #running.out() > 100 end, "it is at work")
    running:kill(signal)
    t.eq(running:wait(), signal == kit.SIGINT and 130 or 128 + signal)
    t.ok(#events_of(t, path) > 100)
  end
end)

story.test("a full disk ends the trace with a line; the work goes on, and the exit code is 1", function(t)
  local path, list = t:file "full.json", {}
  for i = 1, 12000 do list[i] = i end
  local input = table.concat(list, "\n") .. "\n"
  local out, err, code = program.run("map --chunk 1 --trace " .. path .. " " .. ECHO,
    {stdin = input, env = "ulimit -f 1024;"})
  t.eq(code, 1)
  t.ok(out == input, "every answer is there")
  t.match(err, "^moonfork: the trace [^\n]*full.json can't be written, and has ended: [^\n]*\n$")
  events_of(t, path)
end)

story.test("a trace that can't be made: a line, and 126", function(t)
  for _, command in ipairs{"map", "run"} do
    local out, err, code = program.run(command .. " --trace /no/such/folder/t " .. ECHO)
    t.eq({out, code}, {"", 126})
    t.eq(err, ("moonfork %s: the trace /no/such/folder/t can't be written: No such file or directory\n")
      :format(command))
  end
end)

story.done()
