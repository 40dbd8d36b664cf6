-- SIGUSR2 asks a template what it is doing, also while it hangs, and disturbs nothing: what
-- user code has set for that signal stays, and clones have the default.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

-- A template whose standard error is read by text().
local function reporting(options)
  local file = assert(io.tmpfile())
  options.stderr = file
  local p = fork.new_exec(options)
  return p, function()
    file:seek "set"
    return file:read "a"
  end
end

-- What it wrote in the end, once it holds all of these words.
local function text_with(t, text, ...)
  for _, word in ipairs {...} do
    t.within(10, function()
      fork.step(0.02)
      return text():find(word, 1, true)
    end)
  end
  return text()
end

-- What code does first, so that its beginning can be waited for.
local BEGINS = "io.stderr:write 'begins\\n' "

-- Everything asked of p so far is executed.
local function settle(p) assert(p:memory()) end

story.test("SIGUSR2: an idle template says so, with its name, forks and heap", function(t)
  local p, text = reporting{name = "anna"}
  p:eval "function nothing() end"
  for _ = 1, 3 do
    local q = p:fork():run "nothing"
    q:close()
  end
  settle(p)
  p:kill "USR2"
  local out = text_with(t, text, "heap:", "collector:")
  t.ok(out:find("template " .. p:pid() .. " anna: serving, waits for commands", 1, true), out)
  t.ok(out:find(" 3 forks", 1, true), out)
  t.ok(not out:find("stack", 1, true), out)
  t.ok(p:eval "x = 1":fork():run "nothing", "it goes on")
  p:close()
  fork.loop()
end)

story.test("SIGUSR2: Lua code that hangs is shown with its stack", function(t)
  local p, text = reporting{}
  settle(p)
  p:eval("-- =endless\nlocal function inner() while not done do end end\nlocal function outer() "
    .. BEGINS .. "inner() end outer()")
  text_with(t, text, "begins")
  p:kill "USR2"
  local out = text_with(t, text, "executes eval", "in user code for", "endless:2", "endless:3")
  t.ok(select(2, out:gsub("endless:2", "")) == 1, out)
  t.ok(out:find("moonfork:   [C]: in C\n", 1, true), out) -- C has neither a line nor a name here
  p:kill "KILL"
  p:wait()
  fork.loop()
end)

story.test("SIGUSR2: a C function that blocks is told at once", function(t)
  local here, there = fork.socket.pair()
  local p, text = reporting{stdin = there}
  settle(p)
  p:eval(BEGINS .. "io.read() io.stderr:write 'later'")
  text_with(t, text, "begins")
  p:kill "USR2"
  text_with(t, text, "executes eval")
  here:write "\n"
  text_with(t, text, "later") -- and the code goes on
  settle(p)
  p:close()
  fork.loop()
end)

story.test("SIGUSR2: what user code sets stays, a debug hook too", function(t)
  local p, text = reporting{}
  p:eval "kit = require'testkit' kit.disposition(kit.SIGUSR2, 'ignore')"
  settle(p)
  p:kill "USR2"
  local q = p:fork()
  q:run "type"
  settle(p)
  t.eq(text(), "")
  p:close()
  q:close()
  local h, told = reporting{}
  settle(h)
  h:eval("debug.sethook(function() n = (n or 0) + 1 end, '', 100) " .. BEGINS .. "while not done do end")
  text_with(t, told, "begins")
  h:kill "USR2"
  text_with(t, told, "a debug hook is set")
  h:kill "KILL"
  h:wait()
  fork.loop()
end)

story.test("SIGUSR2: clones have the default, those that fork too", function(t)
  local p = reporting{}
  for _ = 1, 2 do
    local q = p:fork()
    q:fork():run "type"
    settle(q)
    q:kill "USR2"
    t.eq(q:wait().signal, kit.SIGUSR2)
    q:close()
  end
  local q = p:fork():eval "function nap() require'testkit'.msleep(1e6) end"
  q:run "nap"
  q:kill "USR2"
  t.eq(q:wait().signal, kit.SIGUSR2)
  -- A template that runs the function itself has the default in it.
  p:eval "function nap() require'testkit'.msleep(1e6) end"
  p:run "nap"
  p:kill "USR2"
  t.eq(p:wait().signal, kit.SIGUSR2)
  fork.loop()
end)

story.test("SIGUSR2: the audit does not take it for the program's", function(t)
  local p, text = reporting{}
  p:seal{audit = "warn"}
  settle(p)
  t.ok(not text():find "signal", text())
  p:close()
  fork.loop()
end)

story.done()
