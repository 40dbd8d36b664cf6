-- The cells of a worker's row on the board of moonfork.server; both sides know them from here.
local core = require "moonfork.serve_core"

local cells = {
  PID = 0,
  BUSY = 1, -- 1: at a request
  SINCE = 2, -- when that began, microseconds
  REQUESTS = 3,
  ERRORS = 4,
  OPEN = 5, -- connections
  TIMED_OUT = 6, -- 1: the server has given up the request
  LATENCY = 8, -- the buckets of durations
}
cells.ROW = cells.LATENCY + core.buckets

return cells
