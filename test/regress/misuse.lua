-- Misuse raises an error that names function and argument, at the position of the program's
-- own call: whatever is wrong, no text comes from inside of the library. A dot in the place
-- of a colon was "bad argument #self"; `pool:map(ipairs(t))` failed inside of the library.
local story = require "story"
local fork = require "moonfork"

local here = debug.getinfo(1, "S").short_src:gsub("%p", "%%%0")

local function is_ours(t, message, what)
  t.eq(type(message), "string", what)
  t.match(message, "^" .. here .. ":%d+: ", what)
  t.ok(not message:find "moonfork/%w+%.lua", what .. ": " .. message)
  t.ok(not message:find "moonfork%.module", what .. ": " .. message)
  t.ok(not message:find "moonfork%.core", what .. ": " .. message)
end

-- Every public function of an object, or of its class.
local function methods_of(object)
  local list = {}
  local index = object
  while type(index) == "table" do
    for name, f in pairs(index) do
      if type(name) == "string" and type(f) == "function" then list[name] = list[name] or f end
    end
    local meta = getmetatable(index)
    index = type(meta) == "table" and rawget(meta, "__index") or nil
  end
  return list
end

local function class(object) return getmetatable(object).__index end

local DOT = {
  process = function() return fork.new() end,
  rpc = function() return fork.new():rpc "type" end,
  pool = function() return fork.new():pool "type" end,
}

for kind, make in pairs(DOT) do
  story.test("a dot in the place of a colon says so: " .. kind, function(t)
    local object = make()
    for name, f in pairs(methods_of(class(object))) do
      for _, wrong in ipairs {{n = 0}, {{}, n = 1}, {"x", n = 1}, {7, n = 1}, {fork, n = 1}} do
        local ok, message = pcall(function()
          local _ = f(table.unpack(wrong, 1, wrong.n))
        end)
        t.ok(not ok, kind .. "." .. name)
        is_ours(t, message, kind .. "." .. name)
        t.match(message, "'" .. name .. "'", name)
        t.match(message, "colon", name)
        t.ok(not message:find "#self", message)
      end
    end
    object:close()
    fork.loop()
  end)
end

story.test("a colon in the place of a dot says so", function(t)
  for _, name in ipairs {"new", "new_exec", "template"} do
    local _, message = pcall(function() local _ = fork[name](fork, {}) end)
    is_ours(t, message, name)
    t.match(message, "use a dot: fork%." .. name)
  end
end)

story.test("a dot in the place of a colon says so: sockets, calls, the reactor", function(t)
  local a = fork.socket.pair()
  for _, name in ipairs {"read", "write", "lines", "close", "fileno", "detach", "dup", "file", "accept",
    "send_fd", "recv_fd", "shutdown", "settimeout", "flush", "peer", "address"} do
    local f = a[name]
    if f then
      for _, wrong in ipairs {{n = 0}, {"x", n = 1}} do
        local ok, message = pcall(function()
          local socket = {[name] = f}
          local _ = socket[name](table.unpack(wrong, 1, wrong.n))
        end)
        t.ok(not ok, name)
        is_ours(t, message, name)
        t.match(message, "colon", name)
      end
    end
  end
  a:close()
  local rpc = fork.new():rpc "type"
  local call = rpc:call(1, function() end)
  t.match(t.raises("colon", function() local _ = call.cancel() end), "'cancel'")
  t.match(t.raises("colon", function() local _ = rpc:with({timeout = 1}).call() end), "'call'")
  t.match(t.raises("colon", function() local _ = fork.reactor.step(0.1) end), "'step'")
  rpc:close()
  fork.loop()
end)

local BAD = {
  false, true, 0, -1, 1.5, 0 / 0, math.huge, 1 << 40, "", "a\0b", "x", {}, {1}, {x = 1}, function() end,
  coroutine.create(print), io.stderr, setmetatable({}, {__index = function() error "index" end}),
}

-- What was prepared badly fails somewhere, and nobody asks.
local function quietly(f)
  return function(t)
    fork.on_error(function() end)
    f(t)
    fork.loop()
    fork.on_error(nil)
  end
end

local function try(t, what, f, self, ...)
  local args = table.pack(...)
  local ok, message = pcall(function()
    local _
    if self == nil then
      _ = f(table.unpack(args, 1, args.n))
    else
      _ = f(self, table.unpack(args, 1, args.n))
    end
    return _
  end)
  if not ok then is_ours(t, message, what) end
  return ok
end

-- Those that would wait for ever, end this program, or change it.
local SKIP = {
  loop = true, template = true, set_waiter = true, on_error = true, reset = true, use_loop = true, sleep = true,
  step = true, signal = true, trace = true, load = true,
}

story.test("wrong arguments of the module's functions name the caller", {deadline = 60}, quietly(function(t)
  for name, f in pairs(fork) do
    if type(f) == "function" and not SKIP[name] and name ~= "from_fd" then
      for i, bad in ipairs(BAD) do
        try(t, ("fork.%s (%d)"):format(name, i), function(...)
          local result = f(...)
          local meta = getmetatable(result)
          if type(meta) == "table" and meta.__close then result:close() end
        end, nil, bad, bad)
      end
    end
  end
  for _, name in ipairs {"set_waiter", "on_error"} do
    for i, bad in ipairs(BAD) do
      if type(bad) ~= "function" and bad ~= false then
        try(t, ("fork.%s (%d)"):format(name, i), fork[name], nil, bad)
      end
    end
    fork[name](nil)
  end
  fork.on_error(function() end)
  for i, bad in ipairs(BAD) do
    if type(bad) ~= "number" then
      try(t, "from_fd " .. i, function() fork.from_fd(bad):close() end)
    end
  end
  fork.loop()
end))

story.test("wrong options name the caller", {deadline = 60}, quietly(function(t)
  local names = {"env", "cwd", "stdin", "stdout", "stderr", "timeout", "session", "leash", "handles",
    "name", "tree", "program", "path", "cpath", "gc", "spares", "no_such_option"}
  for _, name in ipairs(names) do
    for i, bad in ipairs(BAD) do
      if type(bad) ~= "number" or not name:find "^std" then
        try(t, ("new_exec %s %d"):format(name, i), function(options)
          fork.new_exec(options):close()
        end, nil, {[name] = bad})
      end
    end
  end
  fork.loop()
end))

story.test("wrong arguments of a process's methods name the caller", {deadline = 60}, quietly(function(t)
  local skip = {wait = true, close = true, memory = true}
  for name, f in pairs(methods_of(class(fork.new()))) do
    for i, bad in ipairs(BAD) do
      if not skip[name] and not (name == "send_fd" and type(bad) == "number") then
        local p = fork.new()
        try(t, ("process:%s (%d)"):format(name, i), f, p, bad, bad)
        p:close()
      end
    end
  end
  fork.loop()
end))

story.test("wrong arguments of rpcs and pools name the caller", {deadline = 60}, quietly(function(t)
  local names = {"async", "init", "on_event", "on_error", "on_close", "serialiser", "timeout", "handles",
    "message_max", "max", "idle", "load", "start", "stop", "queue_max", "max_calls", "call_timeout",
    "max_memory", "restart", "grace", "no_such_option"}
  for _, kind in ipairs {"rpc", "pool"} do
    for _, name in ipairs(names) do
      for i, bad in ipairs(BAD) do
        local p = fork.new()
        local service
        try(t, ("%s %s %d"):format(kind, name, i), function()
          service = p[kind](p, "type", {[name] = bad})
        end)
        if service then service:close() end
        p:close()
      end
    end
  end
  local process = fork.new()
  local pool = process:pool("type", {max = 1})
  for _, name in ipairs {"reload", "resize", "with", "map", "add", "promote"} do
    for i, bad in ipairs(BAD) do
      if pool[name] then
        try(t, ("pool:%s %d"):format(name, i), function() pool[name](pool, bad, bad) end)
      end
    end
  end
  pool:close()
  fork.loop()
end))

-- It opened, and made, the file "a".
story.test("a path with a zero byte is no path", function(t)
  local name = t:file "a"
  t.raises("zero byte", fork.socket.open, name .. "\0b", "w")
  t.raises("invalid mode", fork.socket.open, name, "w\0b")
  t.eq(io.open(name), nil)
end)

story.test("wrong arguments of sockets name the caller", {deadline = 60}, quietly(function(t)
  for _, name in ipairs {"listen", "connect", "open", "poll", "wrap"} do
    local f = fork.socket[name]
    for i, bad in ipairs(BAD) do
      if f and type(bad) ~= "number" then
        try(t, ("socket.%s (%d)"):format(name, i), function()
          local made = f(bad, bad)
          if type(made) == "userdata" then made:close() end
        end)
      end
    end
  end
  for _, name in ipairs {"read", "lines", "write", "settimeout", "shutdown", "send_fd", "file", "option",
    "limit", "communicate", "address", "flush"} do
    for i, bad in ipairs(BAD) do
      local a, b = fork.socket.pair()
      a:settimeout(0.001)
      if a[name] and type(bad) ~= "number" then
        try(t, ("socket:%s (%d)"):format(name, i), function() return a[name](a, bad, bad) end)
      end
      if not tostring(a):find "closed" then a:close() end
      b:close()
    end
  end
  os.remove "x"
end))

story.test("what is not possible any more says why", function(t)
  local p = fork.new()
  t.got(p:run "type")
  t.match(t.raises("run", function() p:eval "x = 1" end), "^" .. here .. ":%d+: 'eval'")
  p:close()
  t.match(t.raises("closed", function() p:pid() end), "^" .. here .. ":%d+: 'pid'")
end)

-- ---- map ----

local function collect(pool, ...)
  local out = {}
  for i, err, a, b in pool:map(...) do out[i] = err or {a, b} end
  return out
end

story.test("map takes an iterator with state and first value in a table", function(t)
  local pool = fork.new():eval "function f(...) return ... end":pool "f"
  local t1 = {"a", "b", "c"}
  local out = collect(pool, {ipairs(t1)})
  t.eq(#out, 3)
  for i, pair in ipairs(out) do
    t.eq(pair[1], i)
    t.eq(pair[2], t1[i])
  end
  local seen = {}
  for _, pair in ipairs(collect(pool, {pairs {x = 1, y = 2}})) do seen[pair[1]] = pair[2] end
  t.eq(seen.x, 1)
  t.eq(seen.y, 2)
  t.eq(collect(pool, {pairs {}})[1], nil)
  t.eq(collect(pool, ("a b"):gmatch "%a")[2][1], "b")
  t.eq(collect(pool, io.lines(t:file("lines", "1\n2\n")))[2][1], "2")
  t.eq(collect(pool, {next, {only = "one"}})[1][2], "one")
  pool:close()
end)

story.test("an iterator's three values as arguments are an error that says what to do", function(t)
  local pool = fork.new():pool "type"
  for _, call in ipairs {
    function() local _ = pool:map(ipairs {1}) end,
    function() local _ = pool:map(pairs {1}) end,
    function() local _ = pool:map(pairs {}) end,
    function() local _ = pool:map(next, {1}) end,
    function() local _ = pool:map({1}, {2}) end,
    function() local _ = pool:map({1}, 2) end,
  } do
    local _, message = pcall(call)
    is_ours(t, message, "map")
    t.match(message, "bad argument #[12] to 'map'")
  end
  t.match(select(2, pcall(function() local _ = pool:map(ipairs {1}) end)), "pool:map{ipairs%(t%)}")
  pool:close()
end)

story.test("an error of the user's iterator is the user's", function(t)
  local pool = fork.new():pool "type"
  local _, message = pcall(collect, pool, function() error("mine", 0) end)
  t.eq(message, "mine")
  pool:close()
  fork.loop()
end)

-- ---- texts of objects ----

story.test("objects without a name say who they are and how they are", function(t)
  local p = fork.new()
  t.match(tostring(p), "^moonfork%.process %(.*serving%)$")
  local q = p:fork {name = "painter"}
  t.got(q:run "type")
  t.match(tostring(q), "^moonfork%.process %(painter, pid %d+, ")
  t.status(q)
  t.match(tostring(q), "painter, pid %d+, exited with 0")
  local failed = fork.new():eval "error 'no'"
  t.error(select(2, failed:run "type"), "REMOTE")
  t.match(tostring(failed), "failed")
  local rpc = p:rpc "type"
  t.match(tostring(p), "used by an rpc")
  t.got(rpc:call(1))
  t.match(tostring(rpc), "^moonfork%.rpc %(type, pid %d+, open%)$")
  t.match(tostring(rpc:with {timeout = 1}), "moonfork%.rpc %(type")
  local call = rpc:call(2, function() end)
  t.match(tostring(call), "^moonfork%.call %(number %d+%)$")
  rpc:close()
  t.match(tostring(rpc), "closed")
  local pool = fork.new():pool("type", {max = 1})
  t.got(pool:call(1))
  t.match(tostring(pool), "^moonfork%.pool %(type, running, workers: 1, ")
  pool:close()
  t.match(tostring(pool), "closed")
  fork.loop()
  t.match(tostring(rpc), "closed")
  t.match(tostring(pool), "closed")
  p:close()
  t.match(tostring(p), "closed")
  local socket <close> = fork.socket.pair()
  t.match(tostring(socket), "^moonfork%.socket %(fd %d+%)$")
end)

story.done()
