-- The annotations for editors (lua/moonfork/meta.lua and meta/) and the module say the same: what
-- is annotated exists at run time, and what exists there is annotated. A type checker that knows less
-- than the module warns of good programs; one that knows more is silent about bad ones.
local story = require "story"
local kit = story.kit
local annotations = require "annotations"
local fork = require "moonfork"

local source = os.getenv "MOONFORK_SOURCE"
local folder = source .. "/lua/moonfork/"
local FILES = {"meta.lua", "meta/clone.lua", "meta/doctor.lua", "meta/early.lua", "meta/ffi.lua", "meta/lines.lua",
  "meta/luv.lua", "meta/nats.lua", "meta/pool.lua", "meta/pseudo.lua", "meta/rpc.lua", "meta/server.lua",
  "meta/socket.lua"}
local paths = {}
for i, name in ipairs(FILES) do paths[i] = folder .. name end

-- Names that are there for the library itself.
local INTERNAL = {["moonfork.rpc_functions"] = {serve = true}, ["moonfork.nats.pool"] = {places = true}}

local types

local function compare(t, class, there)
  local annotated, wrong, internal = {}, {}, INTERNAL[class] or {}
  for _, name in ipairs(annotations.names(types, class)) do
    annotated[name] = true
    if not there[name] then wrong[#wrong + 1] = name .. " is annotated and does not exist" end
  end
  for name in pairs(there) do
    if not annotated[name] and not internal[name] then
      wrong[#wrong + 1] = tostring(name) .. " exists and is not annotated"
    end
  end
  for name in pairs(internal) do
    if not there[name] then wrong[#wrong + 1] = name .. " does not exist any more" end
  end
  table.sort(wrong)
  if #wrong > 0 then t.fail("%s: %s", class, table.concat(wrong, "; ")) end
end

local function keys(list)
  local set = {}
  for key in pairs(list) do set[key] = true end
  return set
end

-- The names of an object's methods, those that it inherits included.
local function methods(object)
  local set = {}
  local index = debug.getmetatable(object).__index
  while type(index) == "table" do
    for name in pairs(index) do
      if not name:find "^__" then set[name] = true end
    end
    index = (getmetatable(index) or {}).__index
  end
  return set
end

-- The methods that a page names ("run:wait("), of an object that has others for itself.
local function named_methods(t, object, variable, page)
  local text, set = t.read(source .. "/doc/" .. page), {}
  for name in pairs(methods(object)) do
    if text:find("`" .. variable .. ":" .. name .. "%(") then set[name] = true end
  end
  return set
end

local function words(text)
  local set = {}
  for name in text:gmatch "[%w_]+" do set[name] = true end
  return set
end

-- The options that f knows: an unknown one is answered with the valid ones.
local function options(t, f)
  local ok, message = pcall(f, {no_such_option = 1})
  t.eq(ok, false)
  local list = tostring(message):match "%(valid: ([^%)]*)%)"
  t.ok(list, message)
  return words(list)
end

story.test("the annotations can be read, and each type in them is one", function(t)
  types = annotations.read(paths)
  for module, class in pairs {moonfork = "moonfork", ["moonfork.clone"] = "moonfork.clone",
    ["moonfork.rpc"] = "moonfork.rpc_functions", ["moonfork.pool"] = "moonfork.pool_functions",
    ["moonfork.server"] = "moonfork.server_module", ["moonfork.lines"] = "moonfork.lines",
    ["moonfork.doctor"] = "moonfork.doctor", ["moonfork.pseudo"] = "moonfork.pseudo",
    ["moonfork.nats"] = "moonfork.nats_functions",
    ["moonfork.ffi"] = "moonfork.ffi", ["moonfork.luv"] = "moonfork", ["moonfork.early"] = "moonfork"} do
    t.eq(types.modules[module], class)
  end
  for i, path in ipairs(paths) do
    t.ok(loadfile(path), path)
    t.match(t.read(source .. "/lua/meson.build"), FILES[i]:gsub("%p", "%%%0"), "it is installed")
  end
end)

story.test("the reader of annotations notices what it does not know", function(t)
  for text, message in pairs {
    ["---@class a\n---@field b nothing.of moonfork.nowhere"] = "",
    ["---@class moonfork.a\n---@field b moonfork.nowhere"] = "no type moonfork.nowhere",
    ["---@class a\n---@field b string\n---@field b string"] = "b is there already",
    ["---@class a\n---@feild b string"] = "unknown annotation @feild",
    ["---@class a\nlocal a = {}\n---@param x string\nfunction a.f(y) end"] = "arguments %(y%), but",
    ["---@class a\n---@field b fun(a: string"] = "no type",
    ["x = 1"] = "unknown: x = 1",
  } do
    local ok, err = pcall(annotations.read, {t:file("wrong.lua", text)})
    t.eq(ok, message == "", text)
    if message ~= "" then t.match(err, message) end
  end
end)

story.test("the module and what it gives", function(t)
  compare(t, "moonfork", keys(fork))
  compare(t, "moonfork.sockets", keys(fork.socket))
  compare(t, "moonfork.clone", keys(require "moonfork.clone"))
  compare(t, "moonfork.rpc_functions", keys(require "moonfork.rpc"))
  compare(t, "moonfork.pool_functions", keys(require "moonfork.pool"))
  compare(t, "moonfork.reactor", methods(fork.reactor))
  local timer <close> = fork.timer(60, function() end)
  compare(t, "moonfork.timer", methods(timer))
  local one, two = fork.socket.pair()
  compare(t, "moonfork.socket", methods(one))
  one:close()
  two:close()
end)

story.test("pseudo-processes", function(t)
  local script = t:file("pseudo.lua", [[
    for name in pairs(require "moonfork.pseudo") do print(name) end]])
  local pipe = io.popen(("%s '%s'"):format(os.getenv "LUA" or "lua5.4", script))
  local names = words(pipe:read "a")
  t.ok(pipe:close())
  compare(t, "moonfork.pseudo", names)
end)

story.test("in a clone the modules are the same", function(t)
  local p = fork.new()
  local all = t.ask(p, [[
    local all = {}
    for _, name in ipairs {"moonfork.clone", "moonfork.rpc", "moonfork.pool"} do
      local names = {}
      for key in pairs(require(name)) do names[#names + 1] = key end
      all[name] = table.concat(names, " ")
    end
    return all["moonfork.clone"] .. "|" .. all["moonfork.rpc"] .. "|" .. all["moonfork.pool"] ]])
  local in_clone, rpc, pool = all:match "^(.*)|(.*)|(.*)$"
  compare(t, "moonfork.clone", words(in_clone))
  compare(t, "moonfork.rpc_functions", words(rpc))
  compare(t, "moonfork.pool_functions", words(pool))
  p:close()
end)

story.test("processes, rpcs, pools and their options", function(t)
  local p <close> = fork.new()
  compare(t, "moonfork.process", methods(p))
  compare(t, "moonfork.options", options(t, fork.new))
  compare(t, "moonfork.fork_options", options(t, function(o) p:fork(o) end))
  compare(t, "moonfork.options", options(t, fork.template))
  compare(t, "moonfork.taken_options", options(t, function(o) fork.from_fd(0, o) end))
  compare(t, "moonfork.exec_options", options(t, fork.new_exec))
  compare(t, "moonfork.remote_options", options(t, fork.remote))
  compare(t, "moonfork.seal_options", options(t, function(o) p:seal(o) end))
  compare(t, "moonfork.limits", options(t, function(o) p:limit(o) end))
  compare(t, "moonfork.rpc_options", options(t, function(o) p:rpc("f", o) end))
  compare(t, "moonfork.pool_options", options(t, function(o) p:pool("f", o) end))
  compare(t, "moonfork.listen_options", options(t, function(o) fork.socket.listen("127.0.0.1:0", o) end))
  compare(t, "moonfork.clone_exec_options", options(t, function(o)
    require "moonfork.clone".exec("/bin/true", {"true"}, o)
  end))
  local mother <close> = fork.new():eval "function f() return 1 end"
  local rpc <close> = mother:fork():rpc "f"
  local pool <close> = mother:fork():pool "f"
  compare(t, "moonfork.rpc", methods(rpc))
  compare(t, "moonfork.pool", methods(pool))
  compare(t, "moonfork.mapping_calls", methods(pool:with{timeout = 5}))
  compare(t, "moonfork.with_options", options(t, function(o) rpc:with(o) end))
  compare(t, "moonfork.pool_with_options", options(t, function(o) pool:with(o) end))
  compare(t, "moonfork.map_options", options(t, function(o) pool:map({1}, o) end))
  local call
  call = rpc:call(function() call = nil end)
  compare(t, "moonfork.call", methods(call))
  t.within(10, function() fork.step(0.05) return not call end)
  t.eq(pool(), 1)
  local stats = pool:stats()
  compare(t, "moonfork.pool_stats", keys(stats))
  compare(t, "moonfork.pool_worker", keys(stats.per_worker[1]))
  local times = keys(stats.per_worker[1].run_time)
  for key in pairs(stats.queue_time) do times[key] = true end
  compare(t, "moonfork.pool_times", times)
end)

story.test("what is told of an end, an error and the memory", function(t)
  local p <close> = fork.new():eval [[
    function raise() error {code = 1} end
    function hang() require "testkit".msleep(1e6) end]]
  local status = {}
  local function learn(of)
    for key in pairs(of) do status[key] = true end
    return of
  end
  local raised, killed = p:fork{stderr = "null"}, p:fork()
  t.got(raised:run "raise"):close()
  learn(t.status(raised))
  t.got(killed:run "hang"):close()
  compare(t, "moonfork.memory", keys(t.got(killed:memory())))
  killed:kill "KILL"
  compare(t, "moonfork.rusage", keys(learn(t.status(killed)).rusage))
  status.unknown = true -- where nobody can know; test/proc/transfer.lua
  compare(t, "moonfork.exit", status)
  local rpc <close> = p:fork():rpc "raise"
  local _, err = rpc()
  local there = keys(err)
  there.exit = true -- where the process has ended, too
  there.errno = true -- where the file of process:save is the reason
  compare(t, "moonfork.error", there)
end)

story.test("servers", function(t)
  local server = require "moonfork.server"
  compare(t, "moonfork.server_module", keys(server))
  compare(t, "moonfork.server_options", options(t, server.new))
  local instance = t.got(server.new{template = function() return fork.new_exec():eval "function f() end" end,
    name = "f", listen = {t:file "s"}, workers = 1})
  compare(t, "moonfork.server", named_methods(t, instance, "instance", "serve.md"))
  instance:start()
  t.outside(10, function() fork.step(0.05) return instance.state == "running" end)
  kit.kill(instance:stats().per_worker[1].pid, kit.SIGKILL)
  t.outside(10, function() fork.step(0.05) return #instance:stats().deaths > 0 and instance:stats().running == 1 end)
  local stats = instance:stats()
  compare(t, "moonfork.server_stats", keys(stats))
  compare(t, "moonfork.server_latency", keys(stats.latency))
  compare(t, "moonfork.server_worker", keys(stats.per_worker[1]))
  compare(t, "moonfork.server_death", keys(stats.deaths[1]))
  instance:stop()
  t.outside(10, function() fork.step(0.05) return instance.state == "stopped" end)
  for _, case in ipairs {{template = 1}, {name = 1}, {workers = 0}, {workers = "2"}, {connections = 1.5},
    {timeout = -1}, {log = "xml"}, {raw = true, async = true}, {raw = true, timeout = 5},
    {raw = true, max_requests = 5}, {connections = 5}, {async = true, max_bodies = 5},
    {listen = "x"}, {on_state = 1}, {max_requests = 0}} do
    local given = {template = function() end, name = "f", listen = {t:file "x"}}
    for key, value in pairs(case) do given[key] = value end
    local ok, message = pcall(server.new, given)
    t.eq(ok, false, next(case))
    t.match(tostring(message), "^%S*annotations.lua:%d+: .*new")
  end
end)

story.test("lines of files", function(t)
  local lines = require "moonfork.lines"
  compare(t, "moonfork.lines", keys(lines))
  compare(t, "moonfork.lines_options", options(t, function(o) lines.map(nil, "f", o) end))
  local run = t.got(lines.map(fork.new():eval "function f(x) return x end", "f",
    {files = {t:file("in", "a\nb\n")}, write = function() end}))
  compare(t, "moonfork.lines_run", named_methods(t, run, "run", "lines.md"))
  compare(t, "moonfork.lines_state", keys(run:state()))
  local report = keys(t.got(run:wait()))
  report.given_up = true -- where it has
  compare(t, "moonfork.lines_report", report)
end)

story.test("pools over NATS", function(t)
  if not package.searchpath("moonfork.nats_core", package.cpath) then t.skip "built without libnats" end
  local nats = require "moonfork.nats"
  compare(t, "moonfork.nats_functions", keys(nats))
  compare(t, "moonfork.nats_pool_options", options(t, function(o) nats.pool("nats://127.0.0.1:1", o) end))
  local pool <close> = fork.new():eval "function f() end":pool "f"
  compare(t, "moonfork.nats_node_options", options(t, function(o) nats.node(pool, "nats://127.0.0.1:1", o) end))
  local far = nats.pool("nats://127.0.0.1:1", {subject = "x"})
  local node = t.got(nats.node(pool, "nats://127.0.0.1:1", {subject = "x"}))
  compare(t, "moonfork.nats.pool", methods(far))
  compare(t, "moonfork.nats.node", methods(node))
  local function with_reason(stats) -- where there is one
    stats.engine_reason = stats.engine_reason or ""
    return keys(stats)
  end
  local watch = t.got(nats.watch("nats://127.0.0.1:1"))
  compare(t, "moonfork.nats.watch", methods(watch))
  compare(t, "moonfork.nats_watch_options", options(t, function(o) nats.watch("nats://127.0.0.1:1", o) end))
  compare(t, "moonfork.nats.watch_stats", with_reason(watch:stats()))
  watch:close()
  compare(t, "moonfork.nats.pool_stats", with_reason(far:stats()))
  compare(t, "moonfork.nats.node_stats", with_reason(node:stats()))
  far:close()
  node:close()
  t.ok(fork.loop())
end)

story.test("the doctor", function(t)
  local doctor = require "moonfork.doctor"
  compare(t, "moonfork.doctor", keys(doctor))
  compare(t, "moonfork.doctor_options", options(t, function(o) doctor.audit({}, o) end))
  t:module("annotated_unsafe", "return {file = io.tmpfile()}")
  local report = t.got(doctor.audit{"annotated_unsafe"})
  compare(t, "moonfork.doctor_report", keys(report))
  compare(t, "moonfork.doctor_module", keys(report.modules[1]))
  local finding = keys(report.findings[1])
  t.eq(finding.requested, true)
  finding.requested = nil -- in what clone.findings() gives there is none
  compare(t, "moonfork.finding", finding)
  local parts = doctor.installation()
  local part = {text = true, lua = true}
  for _, one in ipairs(parts) do
    for key in pairs(one) do part[key] = true end
  end
  compare(t, "moonfork.doctor_part", part)
  compare(t, "moonfork.doctor_row", keys(doctor.system()[1]))
end)

story.test("the codes of errors are those of moonfork.h, as Lua shows them", function(t)
  local wanted = {}
  for name in t.read(source .. "/src/bind/values.c"):gmatch '{%-?[%u_]+, "([%u_]+)"}' do
    wanted[name] = true
  end
  local annotated = {}
  for _, text in ipairs(types.aliases["moonfork.code"]) do annotated[text:match '"(.*)"'] = true end
  wanted.EINVAL = true -- all others
  t.eq(annotated, wanted)
end)

-- A program for another Lua: prints "CLASS NAME" for each name there is.
local OTHER = [[
local fork = require "moonfork.ffi"
local function show(class, set)
  for name in pairs(set) do print(class .. " " .. name) end
end
local function methods(class, object)
  local index = getmetatable(object).__index
  while type(index) == "table" do
    show(class, index)
    index = (getmetatable(index) or {}).__index
  end
end
local function options(class, f, ...)
  local args = {...}
  args[#args + 1] = {no_such_option = 1}
  local _, message = pcall(f, (unpack or table.unpack)(args))
  for name in message:match "%(valid: ([^%)]*)%)":gmatch "[%w_]+" do print(class .. " " .. name) end
end
show("moonfork.ffi", fork)
local p = fork.new()
methods("moonfork.ffi.process", p)
options("moonfork.ffi.options", fork.new)
options("moonfork.ffi.exec_options", fork.new_exec)
options("moonfork.ffi.rpc_options", p.rpc, p, "f")
options("moonfork.ffi.pool_options", p.pool, p, "f")
local rpc = fork.new():eval("function f() end"):rpc("f")
local pool = fork.new():eval("function f() end"):pool("f")
methods("moonfork.ffi.rpc", rpc)
methods("moonfork.ffi.pool", pool)
methods("moonfork.ffi.calls", rpc:with{timeout = 1})
options("moonfork.with_options", rpc.with, rpc)
options("moonfork.pool_with_options", pool.with, pool)
methods("moonfork.ffi.call", rpc:call(function() end))
]]

for _, program in ipairs {"luajit", "lua5.1", "lua5.3"} do
  story.test("moonfork.ffi in " .. program, {deadline = 60}, function(t)
    if not os.execute("command -v " .. program .. " >/dev/null 2>&1") then
      t.skip(program .. " is not installed")
    end
    if story.is_sanitized then t.skip "it does not bear a sanitizer's runtime" end
    local version = program:match "%d%.%d"
    local part = os.getenv "MOONFORK_BUILD" .. "/moonfork/ffi" .. (version or ""):gsub("%.", "") .. ".so"
    if version and not t.read(part) then t.skip("its headers were not there when this was built") end
    local pipe = io.popen(("timeout 30 %s '%s' 2>&1 </dev/null"):format(program, t:file("other.lua", OTHER)))
    local text = pipe:read "a"
    t.ok(pipe:close(), text)
    local there = {}
    for class, name in text:gmatch "([%w_%.]+) ([%w_]+)\n" do
      there[class] = there[class] or {}
      there[class][name] = true
    end
    for _, class in ipairs {"moonfork.ffi", "moonfork.ffi.process", "moonfork.ffi.options",
      "moonfork.ffi.exec_options", "moonfork.ffi.rpc_options", "moonfork.ffi.pool_options",
      "moonfork.ffi.rpc", "moonfork.ffi.pool", "moonfork.ffi.calls", "moonfork.with_options",
      "moonfork.pool_with_options", "moonfork.ffi.call"} do
      compare(t, class, there[class] or {})
    end
  end)
end

story.done()
