-- A template program of another version of moonfork, or for another Lua, was accepted
-- without a word, and what did not fit showed somewhere else. The error names both programs.
-- And whatever else a template program does instead of saying hello, its error names it and
-- says how it ended.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

-- A script that writes bytes to its control socket, and goes on as it is told.
local function program(t, name, bytes, rest)
  local octal = bytes:gsub(".", function(c) return ("\\%03o"):format(c:byte()) end)
  local path = t:file(name, ("#!/bin/sh\nprintf '%s' >&3\n%s\n"):format(octal, rest))
  kit.chmod(path, tonumber("755", 8))
  return path
end

-- ANS_HELLO of a protocol's version, with what follows the count of commands.
local function hello(version, rest)
  local body = string.pack("<I4I2I2I8", 0x314b464d, version, 0, 0) .. rest
  return string.pack("<I4I1I1I2I8", #body, 64, 0, 0, 4711) .. body
end

local function build(version, lua) return string.pack("<s4s4", version, lua) end

-- The error that a process of the program gives, from `new_exec` and as the default template.
local function errors_of(t, path)
  local real = os.getenv "MOONFORK_TEMPLATE"
  local list = {}
  list[1] = select(2, fork.new_exec {program = path}:run "type")
  list[2] = select(2, fork.new_exec {program = path}:fork():run "type")
  list[3] = select(2, fork.new_exec {program = path}:rpc "type":call())
  kit.setenv("MOONFORK_TEMPLATE", path)
  fork.reset()
  list[4] = select(2, fork.new():eval "x = 1":run "type")
  fork.reset()
  kit.setenv("MOONFORK_TEMPLATE", real)
  t.eq(#list, 4)
  return list
end

local own = fork._VERSION:match "%S+$"
local lua = "5%.4%.%d+"

story.test("another build is refused, and both programs are named", {new_template = true}, function(t)
  local rows = {
    {"newer", build("99.0.1", "5.4.4"), "is moonfork 99%.0%.1 for Lua 5%.4%.4"},
    {"other_lua", build(own, "5.3.6"), "is moonfork " .. own:gsub("%.", "%%.") .. " for Lua 5%.3%.6"},
    {"sizes", build(own, "5.4.4 with a lua_Integer of 4 bytes"), "with a lua_Integer of 4 bytes"},
    {"rude", build("\27[31m" .. ("x"):rep(500), "\n"), "is moonfork %?%[31mx+ for Lua %?,"},
  }
  for _, row in ipairs(rows) do
    local path = program(t, row[1], hello(2, row[2]), "exec sleep 30")
    for _, err in ipairs(errors_of(t, path)) do
      t.error(err, "TEMPLATE_START", row[3])
      t.match(err.message, row[1])
      t.match(err.message, "core%.so is moonfork " .. own:gsub("%.", "%%.") .. " for Lua " .. lua)
      t.match(err.message, "MOONFORK_TEMPLATE")
      t.eq(err.started, "no")
    end
  end
end)

story.test("so is another version of the protocol", {new_template = true}, function(t)
  for version, rest in pairs {[1] = "", [3] = "whatever it says"} do
    local path = program(t, "v" .. version, hello(version, rest), "exec sleep 30")
    for _, err in ipairs(errors_of(t, path)) do
      t.error(err, "TEMPLATE_START", "speaks version " .. version .. " of the protocol")
      t.match(err.message, path:gsub("%p", "%%%0"))
      t.match(err.message, "speaks version 2")
    end
  end
end)

story.test("whatever else it does is told with its name and its end", {new_template = true}, function(t)
  local rows = {
    {"leaves", "", "exit 7", "exit status 7"},
    {"dies", "", "kill -SEGV $$", "signal 11"},
    {"garbage", ("x"):rep(64), "exec sleep 30", "malformed.*killed"},
    {"short", hello(2, ""), "exec sleep 30", "malformed hello.*killed"},
    {"hangs_up", "", "exec 3>&- 4>&-; exec sleep 30", "signal 9"},
    {"complains", string.pack("<I4I1I1I2I8", 8 + 4 + 5 + 4, 68, 0, 0, 1) ..
      string.pack("<I1I1I2I4", 4, 1, 0, 0) .. string.pack("<s4", "alas!") .. "\xff\xff\xff\xff",
      "exit 1", "could not start: alas!"},
  }
  for _, row in ipairs(rows) do
    local path = program(t, row[1], row[2], row[3])
    for i, err in ipairs(errors_of(t, path)) do
      t.error(err, "TEMPLATE_START", row[4])
      t.match(err.message, "template program " .. path:gsub("%p", "%%%0"), row[1] .. " " .. i)
      t.eq(err.started, "no")
    end
  end
end)

-- A near end of an older version does not know what a newer program says first. One that was killed was
-- said to be of another build.
story.test("a near end that ends without a word is named", {new_template = true}, function(t)
  local real = os.getenv "MOONFORK_REMOTE"
  for _, code in ipairs {"exit 2", "kill -KILL $$"} do
    local path = program(t, "near", "", code)
    kit.setenv("MOONFORK_REMOTE", path)
    local _, err = fork.remote{command = {"/bin/true"}}:run "type"
    kit.setenv("MOONFORK_REMOTE", real)
    t.error(err, "TEMPLATE_START", "near end, the program " .. path:gsub("%p", "%%%0")
      .. ", has ended without a word: it was killed, or is not of the same build")
    t.eq(err.started, "no")
  end
end)

story.done()
