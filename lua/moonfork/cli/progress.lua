-- A line about progress on standard error, rewritten in place: count, rate, time left where the
-- size of the input is known, workers, failures.

local fork = require "moonfork"
local core = require "moonfork.load"
local terminal = require "moonfork.cli.terminal"

local progress = {}
progress.__index = progress

local PERIOD = 0.2 -- seconds between two looks

function progress.new()
  return setmetatable({paint = terminal.colour(2), shown = false, is_terminal = terminal.is_terminal(2)},
    progress)
end

local function duration(seconds)
  seconds = math.ceil(seconds)
  if seconds < 60 then return ("%d s"):format(seconds) end
  if seconds < 3600 then return ("%d:%02d min"):format(seconds // 60, seconds % 60) end
  return ("%d:%02d h"):format(seconds // 3600, seconds // 60 % 60)
end

function progress:text(state, elapsed)
  local count = state.done + state.failed
  local parts = {("%d lines"):format(count + state.skipped)}
  if elapsed > 0 then parts[#parts + 1] = ("%.0f/s"):format(count / elapsed) end
  local share = state.total and state.total > 0 and state.bytes / state.total
  if share and share > 0 then
    parts[#parts + 1] = ("%d %%"):format(math.min(100, math.floor(share * 100)))
    if count > 0 and share < 1 then
      parts[#parts + 1] = duration(elapsed / share * (1 - share)) .. " left"
    end
  end
  parts[#parts + 1] = ("%d worker%s"):format(state.workers, state.workers == 1 and "" or "s")
  local text = table.concat(parts, ", ")
  local limit = terminal.columns(2) - 1
  local failed = state.failed > 0 and ("%d failed"):format(state.failed) or nil
  if failed and #text + 2 + #failed <= limit then return text .. ", " .. self.paint("red", failed) end
  return text:sub(1, limit)
end

function progress:show()
  local text = self:text(self.state(), core.now() - self.began)
  if self.is_terminal then
    io.stderr:write("\r\27[K", text)
    self.shown = true
  else
    io.stderr:write(text, "\n")
  end
end

--- start(state): shows what state() gives, until finish().
function progress:start(state)
  self.state, self.began = state, core.now()
  self.timer = fork.timer(PERIOD, function() self:show() end, self.is_terminal and PERIOD or 5)
end

--- hide(): takes the line away, because something else is written; the next look brings it back.
function progress:hide(wanted)
  if wanted == false or not self.shown then return end
  io.stderr:write "\r\27[K"
  self.shown = false
end

function progress:finish()
  if self.timer then self.timer:close() end
  self.timer = nil
  if self.is_terminal then self:hide() end
end

return progress
