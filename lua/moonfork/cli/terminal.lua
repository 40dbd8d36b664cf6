-- What goes to the terminal: colours where they are wanted, and whether there is one at all.

local terminal = {}

-- Without the program (a script that uses moonfork.cli) nothing is known to be a terminal.
local system = package.loaded["moonfork.cli.system"] or {
  kind = function() return "other" end,
  columns = function() end,
}

--- kind(fd): what that descriptor leads to: "terminal", "pipe" or "other".
terminal.kind = system.kind

--- is_terminal(fd): whether that descriptor leads to a person.
function terminal.is_terminal(fd)
  return system.kind(fd) == "terminal"
end

--- columns(fd): the width of the terminal, 80 where it does not say.
function terminal.columns(fd)
  return system.columns(fd) or 80
end

local CODES = {red = "31", green = "32", yellow = "33", bold = "1", dim = "2"}

--- colour(fd): paint(name, text), which leaves the text alone where colours are not wanted:
-- without a terminal, with TERM=dumb, or where NO_COLOR is set (https://no-color.org).
function terminal.colour(fd)
  local no_color = os.getenv "NO_COLOR"
  local wanted = terminal.is_terminal(fd) and os.getenv "TERM" ~= "dumb" and
    (no_color == nil or no_color == "")
  return function(name, text)
    if not wanted then return text end
    return ("\27[%sm%s\27[0m"):format(CODES[name], text)
  end
end

return terminal
