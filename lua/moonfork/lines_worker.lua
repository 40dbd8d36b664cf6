-- The worker's side of moonfork.lines: a call is a line, its answer a text. Runs in the template
-- and its clones.

local clone = require "moonfork.clone"
local joined = require "moonfork.joined"
local resolve = require "moonfork.function_name"

local worker = {}

local f -- the user's function
local decode, encode -- with JSON

--- prepare(name, json): in the template, before it is given to the pool.
function worker.prepare(name, json)
  f = resolve(name)
  if not json then return end
  local ok, cjson = pcall(require, "cjson.safe")
  if not ok then
    error("JSON needs the Lua module cjson (Debian: lua-cjson; LuaRocks: luarocks install lua-cjson)", 0)
  end
  decode, encode = cjson.decode, cjson.encode
end

local function json_of(line)
  local value, message = decode(line)
  if value == nil then error("the line is not JSON: " .. tostring(message), 0) end
  local result = f(value)
  if result == nil then return "null" end
  local text
  text, message = encode(result)
  if not text then error("the result can't be JSON: " .. tostring(message), 0) end
  return text
end

local function answer(line)
  if decode then return json_of(line) end
  return joined(f(line))
end

--- call(line): the answer.
worker.call = answer

local function message_of(err)
  local ok, text = pcall(tostring, type(err) == "table" and err.message or err)
  return ok and text or "(an error without a text)"
end

--- timed(line): the answer or nil, when it began (seconds since 1970), seconds, this process, and
-- what was raised.
function worker.timed(line)
  local start = clone.time()
  local ok, result = xpcall(answer, message_of, line)
  local seconds = clone.time() - start
  if ok then return result, start, seconds, clone.pid() end
  return nil, start, seconds, clone.pid(), result
end

return worker
