-- The harness itself: what it must not let pass. Each story plants a fault in a program of
-- stories and looks at what that says.
local story = require "story"
story.census = false -- the faults are in other processes

local function run(t, source)
  local out, code, err = t:lua([[
    local story = require "story"
    local fork, kit = require "moonfork", story.kit
    ]] .. source .. "\nstory.done()", {deadline = 60, before = "-u STORY_ONLY"})
  return out .. err, code
end

local function plant(name, fault, pattern)
  story.test(name, {deadline = 60}, function(t)
    local out, code = run(t, [[
      story.test("good before", function(t) t.got(fork.new():run "type") end)
      story.test("planted", function(t) ]] .. fault .. [[ end)
      story.test("good after", function(t) t.got(fork.new():run "type") end)
    ]])
    t.match(out, "\nok 1 %- good before\n")
    t.match(out, "\nnot ok 2 %- planted\n")
    t.match(out, pattern)
    t.match(out, "\nok 3 %- good after\n")
    t.match(out, "\n1%.%.3\n")
    t.eq(code, 1)
  end)
end

plant("a descriptor that stays open fails the story", [[kept = {kit.pipe()}]],
  "descriptor %d+ is now pipe")
plant("a descriptor that is gone fails the story", [[kit.close(0)]], "descriptor 0 .* is gone")
plant("a child that stays fails the story", [[
  if kit.fork() == 0 then
    kit.msleep(8000)
    kit.exit(0)
  end]], "process %d+ of %d+ is left, state %u")
plant("a zombie fails the story", [[if kit.fork() == 0 then kit.exit(0) end]],
  "process %d+ of %d+ is left, state Z")
plant("a clone that goes on fails the story", [[
  local p = fork.new():require "actor"
  kept = t.got(p:run "actor:hold")]], "process %d+ of %d+ is left")
plant("outstanding work fails the story", [[
  fork.new():eval("require'testkit'.msleep(" .. 4500 * story.scale .. ")")
    :run("type", function() end)]],
  "left over")
plant("an error that nobody handles fails the story", [[
  fork.new():run("type", function() error "planted error" end)]], "planted error")
plant("a wrong value fails the story", [[t.eq({1, {a = 2}}, {1, {a = 3}})]], "expected")
plant("1 and 1.0 are not the same", [[t.eq(1, 1.0)]], "expected 1%.0, got 1")
plant("an error is shown with its traceback", [[error "on purpose"]], "on purpose.*traceback")
plant("a story that does not end is interrupted", [[
  kit.deadline(1, 5)
  while true do end]], "deadline has passed")

-- On a loaded machine the time was over after a look that had seen such a moment.
story.test("the last look does not count that comes between an end and the turn that tells it", function(t)
  local out, code = run(t, [[
    story.test("ends", function()
      local step, now, late = fork.step, kit.now, 0
      kit.now = function() return now() + late end
      fork.step = function(seconds) -- of the first look
        fork.step, late = step, 10
        step(seconds)
        return true
      end
    end)
  ]])
  t.eq(code, 0, out)
end)

story.test("a story that is stuck in C ends the file", {deadline = 40}, function(t)
  local _, code = run(t, [[
    story.test("stuck", {deadline = 1}, function() kit.msleep(60000) end)
  ]])
  t.eq(code, 128 + story.kit.SIGALRM)
end)

story.done()
