---@meta _
-- luacheck: ignore
-- Types for editors (LuaCATS): sockets, and the functions that make them. See ../meta.lua.

--- Like a Lua file, a socket, and a descriptor. Failures are `nil, message, errno`.
---@class moonfork.socket
local socket = {}

--- Reads as io files do: a number of bytes, "l", "L", "a" or "n".
---@param ... integer|string
---@return string|number|nil
---@return string?
---@return integer?
function socket:read(...) end

---@param format? integer|string
---@return fun(): string|number|nil
function socket:lines(format) end

--- Writes all of it. After a failure the fourth value is the number of bytes that were written.
---@param ... string|number
---@return moonfork.socket?
---@return string?
---@return integer?
---@return integer?
function socket:write(...) end

---@return moonfork.socket
function socket:flush() end

---@return true?
---@return string?
---@return integer?
function socket:close() end

--- The next connection of a listener.
---@return moonfork.socket?
---@return string?
---@return integer?
function socket:accept() end

--- Ends one direction or both.
---@param how? "r"|"w"|"rw"
---@return true?
---@return string?
---@return integer?
function socket:shutdown(how) end

--- Its own address, as listen and connect take it.
---@return string?
---@return string?
---@return integer?
function socket:address() end

--- The address of the other end.
---@return string?
---@return string?
---@return integer?
function socket:peer() end

--- The longest line or "a" that is read; nil: any.
---@param bytes? integer
---@return moonfork.socket
function socket:limit(bytes) end

--- Writes all, ends the writing direction and reads to the end, at the same time.
---@param data? string|number
---@return string?
---@return string?
---@return integer?
---@return integer?
function socket:communicate(data) end

--- Sends a handle over a Unix socket.
---@param handle moonfork.handle
---@param data? string
---@return moonfork.socket?
---@return string?
---@return integer?
function socket:send_fd(handle, data) end

---@return moonfork.socket?
---@return string
---@return integer?
function socket:recv_fd() end

--- "nodelay", "keepalive", "sndbuf", "rcvbuf": sets it, or tells it.
---@param name string
---@param value? boolean|integer
---@return any
---@return string?
---@return integer?
function socket:option(name, value) end

--- Seconds that each wait may take; nil: any.
---@param seconds? number
---@return moonfork.socket
function socket:settimeout(seconds) end

---@return integer
function socket:fileno() end

--- Gives the descriptor away, and forgets it; behind it what was read already.
---@return integer
---@return string?
function socket:detach() end

---@return moonfork.socket?
---@return string?
---@return integer?
function socket:dup() end

--- A Lua io file of it, which takes it over.
---@param mode? string
---@return file*?
---@return string?
---@return integer?
function socket:file(mode) end

---@return integer
function socket:getfd() end

---@return integer
function socket:pollfd() end

---@return string
function socket:events() end

---@return number?
function socket:timeout() end

---@return boolean
function socket:dirty() end

---@class moonfork.listen_options
---@field backlog? integer connections that may wait to be accepted
---@field reuseport? boolean several processes may listen on the same port

--- fork.socket.
---@class moonfork.sockets
local sockets = {}

--- Two ends that are connected.
---@return moonfork.socket?
---@return moonfork.socket|string
---@return integer?
function sockets.pair() end

--- "host:port", "[v6]:port", "/path", "./path", "@name", "unixgram:/path" or "unixgram:@name".
---@param address string
---@param options? moonfork.listen_options|integer a number: backlog
---@return moonfork.socket?
---@return string?
---@return integer?
function sockets.listen(address, options) end

---@param address string
---@param timeout? number seconds
---@return moonfork.socket?
---@return string?
---@return integer?
function sockets.connect(address, timeout) end

--- Those that can be read or accepted from.
---@param list moonfork.handle[]
---@param timeout? number seconds
---@return moonfork.handle[]?
---@return string?
---@return integer?
function sockets.poll(list, timeout) end

--- A file, with the modes of io.open.
---@param path string
---@param mode? string
---@return moonfork.socket?
---@return string?
---@return integer?
function sockets.open(path, mode) end

--- Takes over a descriptor.
---@param fd integer
---@return moonfork.socket?
---@return string?
---@return integer?
function sockets.wrap(fd) end
