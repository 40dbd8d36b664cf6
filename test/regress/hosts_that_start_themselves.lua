-- A host that is its own template program and does not call mf_template_check was a host again
-- when it was started, and started itself again, without end. Now the second one is told what
-- is missing, and so is the first. And a program with rights that its caller has not (set-user-ID)
-- ran what that caller wrote into MOONFORK_TEMPLATE.
local story = require "story"
local kit = story.kit

local build = os.getenv "MOONFORK_BUILD"
local careless = build and build .. "/test/help/careless"
local has_careless = careless and io.open(careless)

-- Runs the host with these variables: what it printed, how often it was started.
local function run(t, variables, prefix, program)
  if not has_careless then t.skip "no host program was built" end
  local log, out = t:file("log", ""), t:file "out"
  kit.chmod(log, 511)
  local command = ("timeout -k 1 %d env CARELESS_LOG='%s' %s %s '%s' >'%s' 2>&1 </dev/null"):format(
    math.ceil(15 * story.scale), log, variables, prefix or "", program or careless, out)
  local _, how, code = os.execute(command)
  t.eq({ how, code }, { "exit", 0 }, t.read(out))
  return t.read(out), #t.read(log)
end

local HINT = "main%(%) has to call mf_template_check"

story.test("such a host is started twice, and both say what is missing", function(t)
  local out, starts = run(t, "")
  t.eq(starts, 2, out)
  local _, hints = out:gsub(HINT, "")
  t.eq(hints, 2, out)
  t.match(out, "TEMPLATE_START: [^\n]*was started as a template program itself")
  t.match(out, "TEMPLATE_START: [^\n]*it is this program itself")
end)

story.test("the same by MOONFORK_TEMPLATE", function(t)
  local out, starts = run(t, "CARELESS_WORDS=environment MOONFORK_TEMPLATE=" .. tostring(careless))
  t.eq(starts, 2, out)
  t.match(out, "it is this program itself")
end)

story.test("one that does not end is told at once, and ended", function(t)
  if not has_careless then t.skip "no host program was built" end
  -- The second one stays; the first must not wait for it.
  local wrapper = t:file("wrapper", "#!/bin/sh\nCARELESS_WORDS=stay exec '" .. careless .. "' \"$@\"\n")
  kit.chmod(wrapper, 493)
  local began = kit.now()
  local out, starts = run(t, "CARELESS_PROGRAM=" .. wrapper)
  t.eq(starts, 2, out)
  t.match(out, "was started as a template program itself")
  t.match(out, "TEMPLATE_START: the template program [^\n]*wrapper ended")
  t.ok(kit.now() - began < 5 * story.scale, "it took " .. kit.now() - began)
end)

story.test("a shell in between does not hide it for ever", function(t)
  if not has_careless then t.skip "no host program was built" end
  local wrapper = t:file("wrapper", "#!/bin/sh\n'" .. careless .. "' \"$@\"\nexit $?\n")
  kit.chmod(wrapper, 493)
  local out, starts = run(t, "CARELESS_PROGRAM=" .. wrapper)
  t.ok(starts > 1 and starts < 12, starts)
  t.match(out, "was started as a template program itself")
end)

story.test("a host that does call it works, and leaves no mark behind", function(t)
  local out, starts = run(t, "CARELESS_WORDS=checked")
  t.match(out, "^euid %d+\nfine\n$")
  t.eq(starts, 2, out)
  t.eq(t:lua [[
    local fork = require "moonfork"
    local p = fork.new():eval "function f(s) s:write(tostring(os.getenv 'MOONFORK_STARTED')) end"
    print(p:run("f"):read "a")
  ]], "nil\n")
end)

-- A copy that belongs to root and is set-user-ID, run as somebody else; nil where the file
-- system does not have that.
local function privileged(t)
  if not has_careless then t.skip "no host program was built" end
  local copy = t:file "privileged"
  kit.chmod(t:tmp(), 493)
  os.execute(("cp '%s' '%s' && chown 0:0 '%s' && chmod 4755 '%s'"):format(careless, copy, copy, copy))
  return copy
end

local AS_NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"

story.test("a set-user-ID program does not run what its caller names", { root = true }, function(t)
  local copy = privileged(t)
  local trace = t:file("trace", "")
  kit.chmod(trace, 438)
  local evil = t:file("evil", "#!/bin/sh\nid -u >>'" .. trace .. "'\n")
  kit.chmod(evil, 493)
  local variables = "CARELESS_WORDS=environment MOONFORK_TEMPLATE=" .. evil
  local out = run(t, variables, AS_NOBODY, copy)
  if not out:find "euid 0" then t.skip "the file system ignores set-user-ID" end
  t.eq(t.read(trace), "", out)
  out = run(t, variables, AS_NOBODY, careless) -- without more rights it is his to choose
  t.match(out, "euid 65534")
  t.match(t.read(trace), "^65534\n")
end)

story.done()
