-- Every chunk of eval was called "(eval)": a traceback with five of them said nothing. The
-- name is the place of the call, or what the first line of the code says.
local story = require "story"
local fork = require "moonfork"

local here = debug.getinfo(1, "S").short_src

local function line() return debug.getinfo(2, "l").currentline end

local function failure(p)
  return select(2, p:run "type")
end

-- The program text as a chunk of the given file name.
local function chunk(file, text) return assert(load(text, "@" .. file)) end

story.test("a message names the place of the call and the line inside of the code", function(t)
  local place = ("eval at %s:%d:3: "):format(here, line() + 1)
  local err = failure(fork.new():eval "\n\nerror 'no'")
  t.eq(err.message, place .. "no")
  t.ok(err.traceback:find(place, 1, true), err.traceback)
  t.ok(not err.traceback:find("(eval)", 1, true), err.traceback)
end)

story.test("a syntax error, a call in a coroutine, and a chain over lines have their places", function(t)
  local n = line()
  local syntax = failure(fork.new():eval "x = = 1")
  local inside = coroutine.wrap(function() return (failure(fork.new():eval "error 'no'")) end)()
  local chain = failure(fork.new()
    :eval "x = 1"
    :eval "error 'no'")
  for i, err in ipairs {syntax, inside, chain} do
    local at = tonumber(err.message:match("^eval at " .. here:gsub("%p", "%%%0") .. ":(%d+):1: "))
    t.ok(at and at >= n + i and at <= n + 5, err.message)
  end
end)

story.test("a function that eval made keeps the name in the errors of calls", function(t)
  local n = line() + 1
  local rpc = fork.new():eval "function f() error 'no' end":rpc "f"
  local err = select(2, rpc:call())
  rpc:close()
  t.eq(err.message, ("eval at %s:%d:1: no"):format(here, n))
end)

story.test("the first line of the code can name it", function(t)
  local rows = {
    ["-- =set-up\nerror 'no'"] = "set-up:2: no",
    ["-- =two words \t\r\nerror 'no'"] = "two words:2: no",
    ["-- =only"] = "",
    ["-- =x = = 1\nx = = 1"] = "x = = 1:2: unexpected symbol near '='",
  }
  for code, message in pairs(rows) do
    local p = fork.new():eval(code):eval "-- =end\nerror('', 0)"
    t.eq(failure(p).message, message)
  end
end)

story.test("other first lines don't", function(t)
  for _, first in ipairs {"-- ==== rulers ====", "-- = ", "-- =", "--=x", "-- x =y", " -- =x", "--[[ =x ]]"} do
    local err = failure(fork.new():eval(first .. "\nerror 'no'"))
    t.match(err.message, "^eval at .*:2: no$", first)
  end
  t.match(failure(fork.new():eval "x = 1\n-- =late\nerror 'no'").message, "^eval at")
end)

story.test("a long path loses its beginning, never the line", function(t)
  local path = ("/some/where"):rep(20) .. "/main.lua"
  local p = chunk(path, "\n\n\n\n\nlocal p = ... p:eval 'error [[no]]' return p")(fork.new())
  t.match(failure(p).message, "^eval at %.%.%..*/main%.lua:6:1: no$")
end)

story.test("a program in a folder called moonfork is no part of the library", function(t)
  local text = "local p = ... p:eval 'error [[no]]' return p"
  local p = chunk("/home/u/moonfork/main.lua", text)(fork.new())
  t.eq(failure(p).message, "eval at /home/u/moonfork/main.lua:1:1: no")
  local misuse = chunk("/home/u/moonfork/main.lua", "(...):eval(nil)")
  local ok, message = pcall(misuse, fork.new())
  t.ok(not ok)
  t.match(message, "^/home/u/moonfork/main%.lua:1: bad argument")
end)

story.test("the audit tells where the code of a seed was", function(t)
  local n = line() + 1
  local p = fork.new():eval "math.randomseed(42)":seal {audit = "strict"}
  t.match(failure(p).message, ("fixed seed %%(eval at .*eval_names%%.lua:%d:1%%)"):format(n))
end)

story.done()
