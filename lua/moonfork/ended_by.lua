-- The sentence about what has ended a template, and how: of the doctor, and of the commands that load
-- modules. Runs in the parent.

local core = require("moonfork.load").of(...)

local ended_by = {}

local function signal_name(number)
  for name, n in pairs((core.signals())) do
    if n == number then return "SIG" .. name end
  end
  return "signal " .. number
end

--- while_loading(name): what a module did that is to blame.
function ended_by.while_loading(name)
  return ("the module '%s' ended the template while it was loaded"):format(name)
end

--- text(what, status): that, and how it ended: a status with code or signal.
function ended_by.text(what, status)
  if status.signal then return ("%s: %s"):format(what, signal_name(status.signal)) end
  return ("%s: exit code %d (os.exit or exit)"):format(what, status.code)
end

return ended_by
