-- image_story.lua: a story that saves interpreters. Where the system has no images (a Lua that is
-- laid out in another way, no /proc) it is skipped, with what `save` said.
--
--   local image_story = require "image_story"
--   image_story(name, [options,] f)     as story.test

local story = require "story"
local fork = require "moonfork"

-- Whether there are images: true, or nil and why not. A refusal changes nothing.
local function try()
  local path = os.tmpname()
  local p = fork.new_exec()
  local ok, err = p:save(path)
  if not ok then
    assert(err.code == "UNSUPPORTED", tostring(err))
    assert(p:fork():run "type", "the process goes on")
  end
  p:close()
  os.remove(path)
  fork.loop()
  return ok, err and err.message
end
local possible, why_not = try()

return function(name, options, f)
  if not f then options, f = {}, options end
  story.test(name, options, function(t)
    if not possible then t.skip(why_not) end
    f(t)
  end)
end
