-- thread_story.lua: stories of clones in threads. Where there are none they are skipped.
--
--   local threads = require "thread_story"
--   threads.test(name, [options,] f)    as story.test
--   threads.thread(p, ...)              a clone of p in a thread, with these arguments
--   threads.result(t, p, name)          what a function writes in p, and how p ends
--   threads.number(pid)                 of the threads of a process
--   threads.available                   whether there are any

local story = require "story"
local fork = require "moonfork"

local threads = {}

function threads.thread(p, ...)
  return p:fork{isolation = "thread"}:send_arg(...)
end

function threads.result(t, p, name)
  local socket = t.got(p:run(name))
  local text = socket:read("a")
  socket:close()
  local status = t.got(p:wait())
  p:close()
  return text, status
end

function threads.number(pid)
  local text = assert(io.open("/proc/" .. pid .. "/status")):read("a")
  return tonumber(text:match("Threads:%s*(%d+)"))
end

local function ask_available()
  local p = fork.new_exec()
  local q = threads.thread(p)
  local _, err = q:run("type")
  q:close()
  p:close()
  fork.loop()
  return not err or err.code ~= "UNSUPPORTED"
end
threads.available = ask_available()

function threads.test(name, options, f)
  if not f then options, f = {}, options end
  story.test(name, options, function(t)
    if not threads.available then t.skip("this Lua, or this build, has none") end
    f(t)
  end)
end

return threads
