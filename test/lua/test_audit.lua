-- The fork-safety audit (src/template/audit/audit.h): what refuses a fork, whose fault it is, and
-- what the doctor tells besides. Run by a stock interpreter with the shim beside this file.
-- luacheck: globals TestAudit
local lu = require "luaunit"
local build = os.getenv "MOONFORK_BUILD"
if build then package.cpath = build .. "/test/lua/?.so;" .. package.cpath end
local shim = require "clone_shim"
local socket = shim.socket

TestAudit = {}

function TestAudit.setUp()
  shim.start()
end

local function loaded_anew(name, loader)
  package.loaded[name] = nil
  package.preload[name] = loader
end

function TestAudit.test_a_plain_process_is_safe()
  lu.assertEquals({shim.check()}, {true, ""})
end

function TestAudit.test_a_thread_refuses_and_names_its_module()
  loaded_anew("threaded", function()
    shim.thread(true)
    return {}
  end)
  loaded_anew("outer", function() return require "threaded" end)
  shim.watch()
  shim.bracket("command", function() require "outer" end)
  local safe, reason = shim.check()
  lu.assertFalse(safe)
  lu.assertStrContains(reason, "2 threads")
  lu.assertStrContains(reason, "'threaded'")
  shim.thread(false)
  lu.assertFalse((shim.check())) -- remembered
  shim.touch()
  lu.assertTrue((shim.check()))
end

function TestAudit.test_code_outside_of_a_module_bears_the_name_of_the_bracket()
  shim.bracket("eval", function() shim.thread(true) end)
  lu.assertStrContains(select(2, shim.check()), "'eval'")
  shim.thread(false)
end

function TestAudit.test_an_epoll_descriptor_refuses()
  local ok, cqueues = pcall(require, "cqueues")
  lu.skipIf(not ok, "cqueues is not installed")
  shim.watch()
  local loop
  loaded_anew("with.loop", function()
    loop = cqueues.new()
    return {}
  end)
  shim.bracket("app", function() require "with.loop" end)
  local safe, reason = shim.check()
  lu.assertFalse(safe)
  lu.assertStrContains(reason, "epoll descriptor of module 'with.loop'")
  shim.start(loop:pollfd()) -- as if it were the library's own
  lu.assertTrue((shim.check()))
  shim.start()
  lu.assertFalse((shim.check()))
  loop:close()
  shim.touch()
  lu.assertTrue((shim.check()))
end

function TestAudit.test_luv_is_named()
  local code = ("package.cpath = %q "):format(package.cpath) .. [[
    local shim = require "clone_shim"
    shim.start()
    shim.watch()
    local ok = pcall(require, "luv")
    print(ok and select(2, shim.check()) or "skip")]]
  local p = io.popen(("%s -e '%s' 2>&1"):format(arg[-1] or "lua5.4", code))
  local text = p:read("a")
  p:close()
  lu.skipIf(text == "skip\n", "luv is not installed")
  lu.assertStrContains(text, "epoll descriptor of module 'luv'")
end

function TestAudit.test_require_keeps_its_messages()
  shim.watch()
  local ok, message = pcall(function() require "no.such.module" end)
  lu.assertFalse(ok)
  lu.assertStrMatches(message, "^.*test_audit%.lua:%d+: module 'no%.such%.module' not found:.*")
  loaded_anew("failing", function() error("own words", 0) end)
  ok, message = pcall(require, "failing")
  lu.assertFalse(ok)
  lu.assertStrContains(message, "own words")
  loaded_anew("two", function(...) return {...} end)
  local value, extra = require "two"
  lu.assertEquals(value[1], "two")
  lu.assertEquals(extra, ":preload:")
end

local function finding(pattern)
  for _, line in ipairs(shim.findings()) do
    if line:find(pattern) then return line end
  end
end

function TestAudit.test_findings_of_descriptors()
  local a, b = socket.pair()
  local l = assert(socket.listen "127.0.0.1:0")
  local t = shim.timerfd()
  local path = os.tmpname()
  local f = assert(io.open(path, "w"))
  lu.assertStrContains(finding "connected socket", "1 descriptor")
  lu.assertStrContains(finding "listening socket", "1 descriptor")
  lu.assertStrContains(finding "timerfd", "1 descriptor " .. t)
  lu.assertStrContains(finding "open for writing", "1 descriptor")
  for _, x in ipairs {a, b, l, f} do x:close() end
  shim.close(t)
  os.remove(path)
  lu.assertNil(finding "timerfd")
end

function TestAudit.test_findings_besides()
  shim.watch()
  lu.assertNil(finding "randomseed")
  math.randomseed()
  lu.assertNil(finding "randomseed")
  math.randomseed(42)
  lu.assertStrContains(finding "randomseed", "test_audit.lua:")
  shim.alarm(1000)
  lu.assertStrContains(finding "interval timer", "SIGALRM")
  shim.alarm(0)
  lu.assertNil(finding "interval timer")
  shim.thread(true)
  lu.assertStrContains(finding "threads", "2 the process has 2 threads")
  shim.thread(false)
end

local runner = lu.LuaUnit.new()
runner:setOutputType(build and "tap" or "text")
os.exit(runner:runSuite())
