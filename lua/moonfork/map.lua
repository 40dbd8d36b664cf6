-- pool:map: a call for each item, items in chunks, answers in order. Runs in the parent.
--
--   items --read--> piece --send--> worker --> settled --> told, item by item
--                     ^                          |
--                     '---- the rest <-----------'  what a worker did not begin
--
-- A piece is what travels in one message: a chunk (core.chunk_*) or one item in a call of its
-- own. It is over when each of its items has an answer; what a worker did not begin, because
-- it died or its time was up, becomes a piece of its own.

local core = require("moonfork.load").of(...)
local check = require "moonfork.check"
local reactor = require "moonfork.reactor"

local map = {
  call = nil, -- calls.lua's: (pool, call options | nil, ..., callback) -> call
}

local TARGET_US = 5000 -- work of a chunk
local QUICK_US = 500 -- an item that takes longer travels alone
local GROWTH = 16 -- a chunk has at most so many times the items of the last one
local ITEMS_MAX = 65536
local ITEM_BYTES = 16384 -- items or results that are longer travel alone
local CHUNK_BYTES = 65536
local LIMIT_US = 20000 -- a worker answers what it has after that time: RPC_CHUNK_MS
local MESSAGE_MIN = 1 << 20 -- of message_max, for chunks
local PLAIN_SECONDS = 1 -- that items travel alone after a chunk was refused
local PROBES = 8 -- chunks of one item under way, each with a descriptor; the others are calls
local RUNS_MAX = 3 -- of an idempotent item, as of an idempotent call
local LOST_MAX = 3 -- times that a chunk gets lost before its first item

-- ---- items ----

local function is_callable(value)
  local meta = getmetatable(value)
  return type(value) == "function" or (type(meta) == "table" and meta.__call ~= nil)
end

local function spread(give, self, item)
  if type(item) ~= "table" then
    return self:bad(core.error("EINVAL", ("unpack=true: the item is a %s, not a list of arguments")
      :format(check.type_name(item))))
  end
  return give(self, table.unpack(item, 1, item.n or #item))
end

-- An iterator with its state and first value, as pairs gives them: an item is all that it
-- returns.
local function generic(f, state, control)
  local function keep(give, self, first, ...)
    if first == nil then return nil end
    control = first
    return give(self, first, ...)
  end
  return function(give, self) return keep(give, self, f(state, control)) end
end

-- ---- items that come by and by ----

local LATER = {}
map.LATER = LATER

local Feed = {}
Feed.__index = Feed

--- feed(next, idle, fill): items for pool:map whose iterator need not wait: next() gives an item, nil
-- at the end, or map.LATER, and then feed:more() when it may be asked again. idle(), where given, is
-- called before the map waits. fill(chunk, items, bytes), where given, puts items into a chunk
-- (core.chunk_read) until it has so many, and gives how many it has added and nil, "end" or "later".
-- For moonfork.lines, which reads pipes.
function map.feed(next_item, idle, fill)
  return setmetatable({ next_item = next_item, idle = idle, fill = fill }, Feed)
end

function Feed.more(self)
  if self.map then self.map:more() end
end

--- text(end, between): of the next answers that are there, up to one that failed: a text, each answer
-- with `end` behind it, and how many; "", 0 where the map's iterator tells the next. With `between`
-- each item stands before its answer, and that between them.
function Feed.text(self, line_end, between)
  local piece = self.map and self.map.current
  if not piece or not piece.chunk or piece.at >= piece.ready then return "", 0 end
  local text, n = core.chunk_text(piece.chunk, line_end, between)
  piece.at, self.map.told = piece.at + n, self.map.told + n
  return text, n
end

--- item(): the item whose answer was told last by the iterator.
function Feed.item(self)
  local piece = self.map.current
  if piece.chunk then return core.chunk_item(piece.chunk, piece.at) end
  return piece.item
end

local function fed(feed, give_item)
  return function(give, self)
    local item = feed.next_item()
    if item == LATER then
      self.later = true
      return CHUNK_BYTES -- what has been read travels now
    end
    if item ~= nil then return give_item(give, self, item) end
  end
end

-- A function (give, self) that gives the next item's arguments, and what give returns, or nil
-- at the end; and how many there are, where that is known.
local function source_of(items, unpack)
  local give_item = unpack and spread or function(give, self, item) return give(self, item) end
  if getmetatable(items) == Feed then return fed(items, give_item) end
  if is_callable(items) then
    return function(give, self)
      local item = items()
      if item ~= nil then return give_item(give, self, item) end
    end
  end
  if type(items) ~= "table" then
    check.fail(1, "map", ("a list, an iterator function, or an iterator's values in a table "
      .. "expected, got %s"):format(items == nil and "no value" or check.type_name(items)))
  end
  if type(items[1]) == "function" then
    local read = generic(items[1], items[2], items[3])
    if not unpack then return read end
    return function(give, self)
      return read(function(_, item) return spread(give, self, item) end, self)
    end
  end
  local at = 0
  return function(give, self)
    at = at + 1
    if at <= #items then return give_item(give, self, items[at]) end
  end, #items
end

-- ---- options ----

local valid = check.set "chunk unordered unpack progress"

local function flag(where, given, name)
  local value = given[name]
  if value ~= nil and type(value) ~= "boolean" then
    check.option_fail(where, name, "boolean expected, got " .. check.type_name(value))
  end
  return value or false
end

-- pool:map(ipairs(t)) has three values where the items and the options belong.
local function check_options(items, n, given, third)
  if given == nil and third == nil then return {} end
  if is_callable(items) and (n > 2 or type(given) ~= "table" or next(given) == nil
    or type(next(given)) ~= "string") then
    check.fail(1, "map", "the values of an iterator must be in a table: pool:map{ipairs(t)}")
  end
  given = check.optional(2, "map", given, "table") or {}
  check.keys(2, "map", given, valid)
  local where = { f = "map", n = 2 }
  local chunk = given.chunk
  if chunk == "auto" then
    chunk = nil
  elseif chunk ~= nil then
    if type(chunk) ~= "number" then
      check.option_fail(where, "chunk", ('a whole number from 1 or "auto" expected, got %s')
        :format(check.show(chunk)))
    end
    chunk = check.option_count(where, "chunk", chunk, 1, math.maxinteger)
  end
  return { chunk = chunk, unordered = flag(where, given, "unordered"),
    unpack = flag(where, given, "unpack"),
    progress = check.option_callback(where, "progress", given.progress) }
end

-- ---- reading ----

local Map = {}
Map.__index = Map

-- The item that was read can't be sent.
function Map:bad(err)
  self.apart = { err = err, n = 1 }
  return false
end

-- Puts an item into the chunk that is filled: its bytes; false where it has to travel alone.
local function add(self, ...)
  local bytes, err = core.chunk_add(self.filling, ...)
  if bytes then
    self.filled = self.filled + 1
    return bytes
  end
  if err then return self:bad(err) end
  self.apart = { args = table.pack(...), n = 1 }
  return false
end

local function add_apart(self, ...)
  self.apart = { args = table.pack(...), n = 1 }
  return false
end

-- Items of the next chunk. Towards the end of a list they become few, so that all workers end
-- at the same time.
function Map:next_size()
  if self.fixed or not self.total then return self.size end
  local share = (self.total - self.read) // (2 * self.workers)
  return math.max(1, math.min(self.size, share))
end

function Map:read_chunk()
  local size, source = self:next_size(), self.source
  if self.read_into then
    local n, state = self.read_into(self.filling, size, self.bytes_max)
    self.filled, self.ended, self.later = n, state == "end", state == "later"
    return
  end
  repeat
    local bytes = source(add, self)
    self.ended = bytes == nil
  until not bytes or self.filled >= size or bytes >= self.bytes_max
end

-- A chunk without items; nil where none can be had.
function Map:new_chunk()
  if self.pool.closed or not self.pool.raw then return nil end
  local chunk = table.remove(self.free) or core.chunk_new(self.pool.raw, self.item_max)
  if chunk then self.chunks = self.chunks + 1 end
  return chunk
end

function Map:free_chunk(chunk)
  self.chunks = self.chunks - 1
  self.free[#self.free + 1] = chunk
end

-- Reads what is to travel in the next message. May raise what the iterator raises.
function Map:read_more()
  if self.plain_until and core.now() >= self.plain_until then self.plain_until = nil end
  if not self.plain and not self.plain_until and (self.fixed or self.size > 1 or self.chunks < PROBES) then
    self.filling = self:new_chunk()
  end
  if self.filling then
    self:read_chunk()
  else
    self.ended = self.source(add_apart, self) == nil
  end
end

-- The next piece, or nil at the end. What the iterator raised is raised when all items
-- before it are told, as by a loop without a pool.
function Map:next_piece()
  local piece = self.apart
  self.apart = nil
  if piece or self.ended then return piece end
  self.filled = 0
  local ok, err = pcall(self.read_more, self)
  if not ok then self.ended, self.raised = true, { err } end
  local chunk = self.filling
  self.filling = nil
  if chunk and self.filled > 0 then
    self.read = self.read + self.filled
    return { chunk = chunk, n = self.filled }
  end
  if chunk then self:free_chunk(chunk) end
  piece = self.apart
  self.apart = nil
  return piece
end

-- ---- sending ----

-- Pieces under way, or answered and not yet told. The workers take half of it.
function Map:look_ahead()
  local pool = self.pool
  local most = 2 * pool.max * pool.load
  if pool.places then -- nodes come and go
    local places, workers, bytes = pool:places()
    most = 2 * places
    self.workers = math.max(workers, 1)
    self.bytes_max = math.min(CHUNK_BYTES, bytes // 2)
  end
  return math.max(1, math.min(most, pool.queue_max))
end

-- Milliseconds that a piece still has: 0 where the pool decides.
local function time_left(piece)
  if not piece.deadline then return 0 end
  return math.max(1, math.ceil((piece.deadline - core.now()) * 1000))
end

function Map:send(piece)
  if piece.err then return self:settle(piece, 0, 0) end
  self.flying = self.flying + 1
  local under_way
  if piece.args then
    local args = piece.args
    if self.is_fed then piece.item = args[1] end
    args[args.n + 1] = function(...) return self:answered(piece, ...) end
    piece.args = nil
    under_way = map.call(self.pool, self.options, table.unpack(args, 1, args.n + 1))
  elseif self.pool.closed or not self.pool.raw then
    reactor.post(function()
      return self:failed(piece, core.error("CLOSED", "the pool is closed"))
    end)
  else
    if self.timeout then piece.deadline = piece.deadline or core.now() + self.timeout / 1000 end
    under_way = core.chunk_send(self.pool.raw, time_left(piece), self.limit, piece.chunk,
      function(err)
        if err then return self:failed(piece, err) end
        return self:answered_chunk(piece)
      end)
    if reactor.changed then reactor.changed() end
  end
  if not piece.settled then self.under_way[piece] = under_way end
end

function Map:send_waiting()
  while self.waiting_pieces[1] and self.flying < self:look_ahead() do
    self:send(table.remove(self.waiting_pieces, 1))
  end
end

function Map:append(piece)
  piece.at, piece.first = 0, self.started
  self.started = self.started + piece.n
  self.outstanding = self.outstanding + 1
  if self.unordered then return end
  if self.tail then self.tail.after = piece else self.head = piece end
  self.tail = piece
end

-- Refills when half of the window is free, so that many small answers do not each wake us for
-- one more item.
function Map:fill()
  local window = self:look_ahead()
  if self.outstanding * 2 > window then return end
  while self.outstanding < window and not self.later do
    local piece = self:next_piece()
    if not piece then return end
    self:append(piece)
    self:send(piece)
  end
end

-- ---- answers ----

-- The items from `from` on were not begun: they are pieces of their own, which follow this one.
function Map:split(piece, from, size, lost)
  local chunk = self:new_chunk()
  if not chunk then
    piece.rest_err = core.error("LIMIT", "no memory or descriptor for a chunk of items")
    return nil
  end
  core.chunk_split(piece.chunk, from, chunk)
  local rest = { chunk = chunk, n = piece.n - from, at = 0, first = piece.first + from,
    deadline = piece.deadline, lost = lost, after = piece.after, runs = piece.runs }
  piece.n, piece.after = from, rest
  if self.tail == piece then self.tail = rest end
  self.outstanding = self.outstanding + 1
  self.waiting_pieces[#self.waiting_pieces + 1] = rest
  if rest.n > size then self:split(rest, size, size) end
  return rest
end

-- A worker has no descriptor or memory for the record of a chunk, or a node takes none: its
-- items are calls.
function Map:unchunk(piece)
  local last, after = piece, piece.after
  self.plain_until = core.now() + PLAIN_SECONDS
  for i, args in ipairs(core.chunk_unpack(piece.chunk)) do
    local own = { args = args, n = 1, at = 0, first = piece.first + i - 1 }
    last.after, last = own, own
    self.outstanding = self.outstanding + 1
    self.waiting_pieces[#self.waiting_pieces + 1] = own
  end
  last.after = after
  if self.tail == piece then self.tail = last end
  piece.n, piece.err = 0, nil
end

-- So that all workers have something of it.
function Map:rest_size(n)
  return math.max(self.fixed and self.size or 1, (n + self.workers - 1) // self.workers)
end

-- `ready` of its items have answers, `failures` of these errors; the others get piece.err.
function Map:settle(piece, ready, failures)
  piece.settled, piece.ready = true, ready
  self.under_way[piece] = nil
  failures = failures + piece.n - ready
  self.done, self.failed_items = self.done + piece.n - failures, self.failed_items + failures
  if self.unordered then self.ready[#self.ready + 1] = piece end
  if self.progress and piece.n > 0 then
    reactor.call(self.progress, self.done, self.failed_items, self.total)
  end
  local waiting = self.waiting
  if waiting and (self.unordered or self.head.settled) then
    self.waiting = nil
    return waiting(nil, true)
  end
end

-- Of a call of its own.
function Map:answered(piece, err, ...)
  self.flying = self.flying - 1
  if self.closed then return end
  if err then piece.err = err else piece.results = table.pack(...) end
  self:send_waiting()
  return self:settle(piece, err and 0 or 1, 0)
end

function Map:learn(us, n, bytes)
  if self.fixed then return end
  local size = 1
  if us < QUICK_US * n and bytes < ITEM_BYTES * n then
    size = math.min(TARGET_US * n // math.max(us, 1), GROWTH * n, ITEMS_MAX)
  end
  self.size = math.max(size, 1)
end

function Map:answered_chunk(piece)
  self.flying = self.flying - 1
  if self.closed then return end
  local n, failures, us, bytes = core.chunk_result(piece.chunk)
  if n == 0 then
    piece.err = core.error("PROTOCOL", "the worker's answer to a chunk of items is malformed", true)
  else
    piece.clean = true
    self:learn(us, n, bytes)
    if n < piece.n then self:split(piece, n, self:rest_size(piece.n - n)) end
  end
  self:send_waiting()
  return self:settle(piece, n, failures)
end

local LOST = { CLONE_DIED = true, PROTOCOL = true, TIMEOUT = true, ENGINE = true }
local AGAIN = { CLONE_DIED = true, ENGINE = true }

local function not_begun(err)
  return core.error(err.code, err.message)
end

-- A chunk: its record says which items the worker has answered and begun.
function Map:failed(piece, err)
  self.flying = self.flying - 1
  if self.closed then return end
  local ready, failures, begun = core.chunk_settle(piece.chunk)
  local expired = piece.deadline and core.now() >= piece.deadline - 0.001
  piece.err = err
  if err.started == "no" and err.code == "LIMIT" then
    self:unchunk(piece)
  elseif err.started == "no" or not LOST[err.code] or (err.code == "TIMEOUT" and expired) then
    if begun < piece.n then piece.begun, piece.rest_err = begun, not_begun(err) end
  else
    local lost = begun == 0 and (piece.lost or 0) + 1 or nil
    if begun < piece.n and (lost or 0) < LOST_MAX then
      self:split(piece, begun, self:rest_size(piece.n - begun), lost)
    end
    piece.begun = begun
    self:run_again(piece, ready, begun, err)
  end
  self:send_waiting()
  return self:settle(piece, ready, failures)
end

-- The item that the dead worker was at, or all that a node had that is gone, where they may run twice.
function Map:run_again(piece, ready, begun, err)
  local runs = (piece.runs or 0) + 1
  if not self.idempotent or not AGAIN[err.code] or begun <= ready or runs >= RUNS_MAX then return end
  local again = self:split(piece, ready, begun - ready)
  if again then again.runs = runs end
end

-- ---- telling ----

local function wait_for(self)
  -- Leaving the loop closes it; but nothing is left where the coroutine is collected.
  local ok, err = reactor.await(function(done) self.waiting = done end, function(collected)
    if collected then self:close() end
  end)
  self.waiting = nil
  return ok, err
end

-- A feed has more.
function Map:more()
  self.later = false
  local waiting = self.waiting
  if waiting then
    self.waiting = nil
    return waiting(nil, true)
  end
end

-- The next piece that is settled; or nil at the end; or false and an error.
function Map:next_settled()
  self:fill()
  while self.outstanding > 0 or self.later do
    local piece
    if self.unordered then
      piece = table.remove(self.ready, 1)
    elseif self.head and self.head.settled then
      piece = self.head
      self.head = piece.after
      if not self.head then self.tail = nil end
    end
    if piece then return piece end
    if self.idle then self.idle() end
    local ok, err = wait_for(self)
    if not ok then return false, err end
    self:fill()
  end
  return nil
end

function Map:finish(piece)
  self.current = nil
  self.outstanding = self.outstanding - 1
  if piece.clean then
    core.chunk_reset(piece.chunk)
    self:free_chunk(piece.chunk)
  elseif piece.chunk then
    self.chunks = self.chunks - 1
  end
end

function Map:over(piece, err)
  if piece == false then -- too many waits inside each other: no other item has a chance either
    self:close()
    self.outstanding, self.raised = 0, nil
    return self.told + 1, err
  end
  local raised = self.raised
  self.raised = nil
  if raised then error(raised[1], 0) end
  return nil
end

-- index, err, results... of the next item; nil at the end.
function Map:step()
  local piece = self.current
  while true do
    if piece then
      local at = piece.at
      if at < piece.n then
        piece.at = at + 1
        self.told = self.told + 1
        local index = piece.first + at + 1
        if at >= piece.ready then
          return index, piece.begun and at >= piece.begun and piece.rest_err or piece.err
        end
        local results = piece.results
        if results then return index, nil, table.unpack(results, 1, results.n) end
        return index, core.chunk_next(piece.chunk)
      end
      self:finish(piece)
    end
    local err
    piece, err = self:next_settled()
    if not piece then return self:over(piece, err) end
    self.current = piece
  end
end

-- The loop was left early: nobody wants the rest.
function Map:close()
  self.ended, self.closed = true, true
  for piece, under_way in pairs(self.under_way) do
    if piece.chunk then core.chunk_stop(piece.chunk) end
    under_way:cancel()
  end
  self.waiting_pieces = {}
end

Map.__close = Map.close

-- settings: options, timeout (milliseconds | nil) and idempotent of pool:with.
function map.new(pool, settings, items, ...)
  local o = check_options(items, 1 + select("#", ...), ...)
  local source, total = source_of(items, o.unpack)
  local self = setmetatable({
    pool = pool, source = source, total = total, read = 0, started = 0, told = 0,
    options = settings.options, timeout = settings.timeout, idempotent = settings.idempotent,
    plain = pool.async or o.chunk == 1 or pool.message_max < MESSAGE_MIN,
    bytes_max = CHUNK_BYTES, item_max = pool.places and ITEM_BYTES or nil,
    fixed = o.chunk ~= nil, size = o.chunk or 1, workers = math.max(pool.max, 1),
    limit = (not o.chunk or pool.call_timeout) and LIMIT_US or 0,
    unordered = o.unordered, progress = o.progress, done = 0, failed_items = 0,
    flying = 0, outstanding = 0, chunks = 0, under_way = {}, waiting_pieces = {}, ready = {}, free = {},
  }, Map)
  if getmetatable(items) == Feed then
    items.map, self.idle, self.read_into, self.is_fed = self, items.idle, items.fill, true
  end
  return function() return self:step() end, nil, nil, self
end

return map
