-- What the tests of moonfork.socket in test/lua share. They are run by a stock interpreter,
-- with the shim beside them where it is on the cpath, else with the installed module (and
-- skip what needs the shim).
local lu = require "luaunit"
local build = os.getenv "MOONFORK_BUILD"
if build then package.cpath = build .. "/test/lua/?.so;" .. package.cpath end
local has_shim, shim = pcall(require, "socket_shim")

local kit = {
  lu = lu,
  shim = shim,
  has_shim = has_shim,
  socket = has_shim and shim.socket or require "moonfork".socket,
}

function kit.need_shim()
  lu.skipIf(not has_shim, "needs socket_shim")
end

function kit.need(name)
  local ok, module = pcall(require, name)
  lu.skipIf(not ok, name .. " is not installed")
  return module
end

function kit.pair()
  local a, b = kit.socket.pair()
  lu.assertNotNil(a, b)
  return a, b
end

local names = 0
function kit.fresh_name()
  names = names + 1
  return ("moonfork-test-%d-%d-%d"):format(os.time(), names, math.random(1 << 30))
end

-- A descriptor leak in any test fails it.
function kit.counted(class)
  function class:setUp()
    if has_shim then
      collectgarbage()
      collectgarbage()
      self.fds = shim.count_fds()
    end
  end
  function class:tearDown()
    if has_shim then
      shim.set_wait(nil)
      collectgarbage()
      collectgarbage()
      lu.assertEquals(shim.count_fds(), self.fds, "descriptors left")
      lu.assertEquals(shim.threads(), 1, "threads left")
    end
  end
  return class
end

function kit.run()
  local runner = lu.LuaUnit.new()
  runner:setOutputType(build and "tap" or "text")
  os.exit(runner:runSuite())
end

return kit
