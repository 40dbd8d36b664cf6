-- Every call that the parent's side makes fails in its turn, once and for ever.
-- Runs torture.c with the shim preloaded; shallow, or everything with FAULT_NIGHTLY=1.
local host = require "host"
local standing = require "standing"
local story = require "story"

standing.test("the n-th call of each kind fails", {deadline = host.nightly and 3600 or 90,
  stall = false}, function(t)
  local torture, shim = host.tool(t, "torture"), host.tool(t, "shim.so")
  local out = t:file("out", "")
  local _, how, code = os.execute(("LD_PRELOAD='%s' exec timeout 3600 '%s' %d >'%s' 2>&1 </dev/null"):format(
    shim, torture, host.rounds(5, 0), out))
  local text = t.read(out)
  if code == 77 then t.skip(text) end
  t.eq({how, code}, {"exit", 0}, text)
  t.note("%s", text:match("[^\n]*\n?$"))
end)

story.done()
