-- gdb/moonfork.py shows a stopped program: what mf_dump shows, flags by name, calls and workers.
-- It reads the members of records by name, so a change of theirs that it does not know is
-- noticed here.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

local top = debug.getinfo(1, "S").source:match "^@(.*)/test/proc/"

-- What gdb prints about this very process.
local function ask(...)
  local command = {"cd '" .. top .. "' && timeout 60 gdb -q -nx -batch -p", kit.getpid(),
    "-ex 'source gdb/moonfork.py'"}
  for _, line in ipairs {...} do command[#command + 1] = "-ex '" .. line .. "'" end
  local pipe = io.popen(table.concat(command, " ") .. " 2>&1")
  local out = pipe:read "a"
  pipe:close()
  return out
end

-- The command prints the record at an address that Python finds: the first that `where` gives.
local function print_first(record, where)
  return ("python found = %s; gdb.execute(\"print *(%s *)%%d\" %% int(found.address))"):format(
    where, record)
end

local CONTEXT = "next(entries(gdb.lookup_static_symbol(\"contexts\").value(), \"struct context\", \"link\"))" ..
  ".address.cast(gdb.lookup_type(\"struct registry\").pointer())"

story.test("gdb shows processes, an rpc with its call, a pool with its workers", function(t)
  if not os.execute "command -v gdb >/dev/null 2>&1" then t.skip "gdb is not installed" end
  if story.is_sanitized then t.skip "the preloaded runtime is in gdb, too" end
  local nap = "function nap() require'testkit'.msleep(2000) end"
  local p = fork.new_exec{name = "mother"}:eval(nap)
  local rpc = p:fork():rpc "nap"
  local pool = p:fork():eval(nap):pool("nap", {max = 1})
  local answers = 0
  rpc:call(function() answers = answers + 1 end)
  for _ = 1, 2 do pool:call(function() answers = answers + 1 end) end
  t.within(10, function()
    fork.step(0.05)
    return fork.dump():find "worker: at work"
  end)
  local out = ask("moonfork",
    print_first("struct mf_process",
      "next(entries(" .. CONTEXT .. "[\"processes\"], \"struct mf_process\", \"link\"))"),
    print_first("struct inbox",
      "next(entries(" .. CONTEXT .. "[\"processes\"], \"struct mf_process\", \"link\"))[\"chan\"][\"in\"]"))
  if out:find "ptrace: Operation not permitted" then t.skip "gdb may not attach to its parent" end
  for _, words in ipairs {
    "process %d+ pid " .. p:pid() .. " SERVING 'mother', .*open child", "RUNNING, of process %d+",
    "rpc in process %d+, FAR_SERVING, 1 calls wait", "call %d+: flying",
    "pool of 'nap', 0 calls queued, 2 running", "worker 0: process %d+, 2 calls, ready",
    "%$1 = process %d+ pid %d+ SERVING", "%$2 = inbox of 0 bytes, 0 descriptors",
  } do
    t.ok(out:find(words), words .. "\n" .. out)
  end
  t.ok(not out:find "Error" and not out:find "Traceback", out)
  t.within(20, function() fork.step(0.1) return answers == 3 end)
  rpc:close()
  pool:close()
  p:close()
  fork.loop()
end)

story.done()
