-- What users met: a table that was thrown arrived as a text; `"x" .. err` raised; an `assert`
-- of a failed call showed no traceback; and an error that had crossed two processes kept the
-- traceback of one of them. Of a failed process every clone gets the same error, a pool and
-- map hand it on, and so does each of them what was thrown.
local story = require "story"
local fork = require "moonfork"

local THROW = "error {code = 'E_TEST', list = {1, 2.5, true}, text = 'a\\0b'}"

local function is_thrown(t, err)
  t.eq(type(err.value), "table")
  t.eq(err.value.code, "E_TEST")
  t.eq(err.value.list[2], 2.5)
  t.eq(err.value.text, "a\0b")
end

local function failure(p, name)
  local nothing, err = p:run(name or "type")
  assert(nothing == nil)
  return err
end

story.test("a thrown table comes back from every way to fail", function(t)
  t:module("thrower", THROW)
  is_thrown(t, t.error(failure(fork.new():eval(THROW)), "REMOTE"))
  is_thrown(t, t.error(failure(fork.new():require "thrower"), "REMOTE"))
  is_thrown(t, t.error(failure(fork.new(), "thrower:f"), "REMOTE"))
  is_thrown(t, t.error(failure(fork.new():eval(THROW):fork():fork()), "REMOTE"))
  local hooked = "require 'moonfork.clone'.%s(function() " .. THROW .. " end)"
  is_thrown(t, failure(fork.new():eval(hooked:format "before_fork"):fork()))
  is_thrown(t, failure(fork.new():eval(hooked:format "on_fork"):fork()))
  local _, err = fork.new():eval("function i() " .. THROW .. " end"):rpc("type", {init = "i"}):call()
  is_thrown(t, t.error(err, "REMOTE"))
end)

story.test("a thrown table comes back from calls of rpcs and pools, and from map", function(t)
  local code = "function f() " .. THROW .. " end"
  local rpc = fork.new():eval(code):rpc "f"
  is_thrown(t, select(2, rpc:call(1)))
  is_thrown(t, select(2, rpc:with({timeout = 10}):call(1)))
  local later
  rpc:call(1, function(err) later = err end)
  t.within(5, function() return later end)
  is_thrown(t, later)
  rpc:close()
  local pool = fork.new():eval(code):pool("f", {max = 1})
  is_thrown(t, select(2, pool:call(1)))
  for _, err in pool:map {1, 2} do is_thrown(t, err) end
  t.got(pool:drain(10))
  pool = fork.new():eval(THROW):pool "f"
  is_thrown(t, select(2, pool:call(1)))
  pool:close()
end)

story.test("other values come back, and what can't be sent is a text alone", function(t)
  local function value(code) return failure(fork.new():eval(code)) end
  t.eq(value("error(42)").value, 42)
  t.eq(math.type(value("error(1.0)").value), "float")
  t.eq(value("error(false)").value, false)
  local object = value "error(setmetatable({7}, {__tostring = function() return 'seven' end}))"
  t.eq(object.message, "seven")
  t.eq(object.value[1], 7)
  for _, code in ipairs {
    "error 'text'", "error(nil)", "error(print)", "error(io.stdout)", "error {print}",
    "local c = {} c.c = c error(c)", "error {('x'):rep(1 << 20)}",
    "error(setmetatable({print}, {__tostring = function() error 'no' end}))",
  } do
    local err = t.error(value(code), "REMOTE")
    t.eq(err.value, nil, code)
    t.match(err.message, "%S")
  end
end)

story.test("tostring has message and traceback, and so has a failed assert", function(t)
  local err = failure(fork.new():eval "local function deep() error('no', 0) end\ndeep()")
  t.eq(err.message, "no")
  t.match(err.traceback, "^stack traceback:\n.*deep")
  t.eq(tostring(err), "no\n" .. err.traceback)
  local _, raised = pcall(function() assert(nil, err) end)
  t.eq(raised, err)
  local without = failure(fork.new():chdir "/nowhere")
  t.eq(without.traceback, nil)
  t.eq(tostring(without), without.message)
end)

story.test(".. joins the message alone, on either side", function(t)
  local err = failure(fork.new():eval "error('no', 0)")
  t.eq("x " .. err, "x no")
  t.eq(err .. " x", "no x")
  t.eq(1 .. err .. 2.5, "1no2.5")
  t.eq(err .. err, "nono")
  t.eq("" .. failure(fork.new():eval "error(42)"), "42")
  t.raises("concatenate", function() return err .. {} end)
  local joins = setmetatable({}, {__concat = function(a, b) return {a, b} end})
  t.eq((err .. joins)[1], "no")
  t.eq((joins .. err)[1], joins)
end)

local NESTED = [[
  local fork = require "moonfork"
  local function innermost() error {code = "IN"} end
  function f()
    local p = fork.new():eval "local function far_away() error {code = 'IN'} end far_away()"
    local ok, err = p:run "type"
    p:close()
    local function passing_on() error(err) end
    passing_on()
  end
]]

story.test("an error that crosses two processes keeps both tracebacks and what was thrown", function(t)
  local rpc = fork.new():eval(NESTED):rpc "f"
  local err = t.error(select(2, rpc:call()), "REMOTE")
  rpc:close()
  t.match(err.traceback, "far_away.*passing_on")
  t.eq(select(2, err.traceback:gsub("stack traceback:", "")), 2)
  t.ok(not err.message:find "stack traceback", err.message)
  t.eq(err.value.code, "REMOTE")
  t.eq(err.value.started, "no")
  t.match(err.value.traceback, "far_away")
  t.eq(err.value.value.code, "IN")
end)

story.test("the text of a function's uncaught error has both tracebacks, too", function(t)
  local path = t:file "stderr"
  local p = fork.new {stderr = assert(io.open(path, "w"))}
  t.got(p:eval(NESTED):run "f")
  t.match(t.status(p).error, "far_away.*passing_on")
  t.match(t.read(path), "far_away.*passing_on")
end)

story.test("a callback's error object reaches on_error as it is", function(t)
  local err = failure(fork.new():eval(THROW))
  local got, traceback
  fork.on_error(function(e, tb) got, traceback = e, tb end)
  fork.new():run("type", function() error(err) end)
  t.within(5, function() return got end)
  fork.on_error(nil)
  t.eq(got, err)
  t.match(traceback, "stack traceback:.*stack traceback:")
end)

story.done()
