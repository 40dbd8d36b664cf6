-- Programs that are hibernated again and again, at every so many calls and rounds of loops, and go on
-- in another process each time, every second time at another address: they come to their end, where
-- they have compared everything, as if nothing had happened. Inside of C functions they are refused,
-- and go on as well.
local image_file = require "image_file"
local story = require "story"
local fork = require "moonfork"

local source = os.getenv "MOONFORK_SOURCE"
local MOVES = 8 -- about so many of each program

local possible
do
  local path = os.tmpname()
  local p = fork.new_exec()
  possible = p:save(path)
  p:close()
  os.remove(path)
  fork.loop()
end

local RUN = [===[
  local clone = require "moonfork.clone"
  local text, file, every, offset, name = ...
  calls, moves, refused, every = 0, 0, 0, math.tointeger(every)
  calls = math.tointeger(offset)
  function string.step() -- found in any environment
    calls = calls + 1
    if every == 0 or calls % every ~= 0 then return end
    local how, socket = clone.hibernate(file)
    if how == "saved" then os.exit(9) end
    if how then
      moves, current = moves + 1, socket
    else
      assert(socket.code == "EINVAL", socket)
      refused = refused + 1
    end
  end
  hop = {call = function(f, ...) return f(...) end, moves = function() return moves end,
    protected = function(...)
      local r = table.pack(pcall(...))
      if not r[1] then return false, r[2] end
      return table.unpack(r, 2, r.n)
    end}
  package.loaded.hop = hop
  function go(socket)
    current = socket
    assert(load(text, "@" .. name))()
    current:write(calls, " ", moves, " ", refused)
  end
]===]

-- Every function and round of a loop begins with a step.
local function with_steps(text)
  return (text:gsub("(%f[%w_]function%s*[%w_.:]*%s*%b())", "%1 ([==[]==]).step() ")
    :gsub("(%f[%w_]do)(%s*\n)", "%1 ([==[]==]).step()%2"))
end

-- Runs it to its end, in as many processes as it takes: its answer, and how many there were.
local function run(t, text, file, every, name)
  local process = fork.new_exec():eval(RUN, text, file, every, every // 2, name):fork()
  local socket, loads = t.got(process:run "go"), 0
  while true do
    local answer = socket:read "a"
    socket:close()
    local status = t.status(process)
    if status.code ~= 9 then
      t.eq({status.code, status.error}, {0})
      return answer, loads
    end
    loads = loads + 1
    local program = loads % 2 == 1 and image_file.occupied(t, file) or nil
    process = fork.new_exec{program = program, image = file, verify = true}
    socket = t.got(process:run())
  end
end

for _, name in ipairs{"arrays", "chunks", "closing", "collector", "coroutines", "errors", "metamethods", "sorting",
  "strings", "varargs", "weak"} do
  story.test("hibernated on the way: " .. name, function(t)
    if not possible then t.skip "there are no images" end
    local f = assert(io.open(source .. "/test/image/programs/" .. name .. ".lua"))
    local text = with_steps(f:read "a")
    f:close()
    local file = t:file "image"
    local calls = tonumber(run(t, text, file, 0, name .. ".lua"):match "^%d+")
    local every = calls // MOVES
    local answer, loads = run(t, text, file, every, name .. ".lua")
    local moves, refused = answer:match " (%d+) (%d+)$"
    t.eq(tonumber(moves), loads)
    t.ok(loads + refused >= MOVES - 1, answer)
    t.ok(loads > 0, answer)
  end)
end

story.done()
