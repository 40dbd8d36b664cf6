-- p:set (doc/lua-api.md): values that a process and its clones have, packed once.
local story = require "story"
local fork = require "moonfork"
local kit = story.kit

-- What `expression` is in a clone of p.
local function look(t, p, expression)
  return t.ask(p:fork(), "return " .. expression)
end

story.test("every value that a call carries arrives as it was, in the process and its clones",
  function(t)
    local p = fork.new()
    local values = {
      { 42, "x" }, { math.mininteger, "x" }, { 1.0, "math.type(x), x" }, { "\0\255", "x" },
      { true, "x" }, { false, "x" }, { 1 / 0, "x" }, { "", "x" },
    }
    for _, case in ipairs(values) do
      local got = table.pack(look(t, p:set("x", case[1]), case[2]))
      t.eq(got[got.n], case[1])
    end
    t.eq(math.type(select(2, look(t, p:set("x", 1.0), "math.type(x), x"))), "float")
    p:set("x", { 1, 2, { name = "three", [7] = false }, "4" })
    t.eq({ look(t, p, "#x, x[1], x[3].name, x[3][7], x[4]") }, { 4, 1, "three", false, "4" })
    t.eq({ look(t, p:set("x", nil), "x, type(x)") }, { nil, "nil" })
    t.eq(look(t, p:set("x", {}), "next(x) == nil"), true)
    p:close()
  end)

story.test("it is a command as any other: in order, seen by what follows it", function(t)
  local p = fork.new():set("n", 1):eval "n = n + 1; m = n":set("n", 10)
  local before = p:fork()
  p:set("n", 11)
  t.eq({ t.ask(before, "return n, m") }, { 10, 2 })
  t.eq(look(t, p, "n"), 11)
  local a = p:fork():set("own", "a")
  t.eq({ t.ask(a:fork():set("n", 5):fork(), "return own, n") }, { "a", 5 })
  t.eq({ look(t, p, "own, n") }, { nil, 11 })
  t.eq(t.ask(a, "return own"), "a")
  p:close()
end)

story.test("a value that is changed after the call is sent as it was", function(t)
  local p, value = fork.new(), { list = { 1 } }
  p:set("v", value)
  value.list[2] = 2
  t.eq(look(t, p, "#v.list"), 1)
  p:close()
end)

story.test("a dotted name sets a field; of what is no table it is an error of that process",
  function(t)
    local p = fork.new():set("config", { db = {} }):set("config.db.host", "here")
    t.eq(look(t, p:set("package.loaded.settings", { 7 }), "require('settings')[1]"), 7)
    t.eq(look(t, p, "config.db.host"), "here")
    for name, text in pairs { ["none.x"] = "'none' is a nil value",
      ["config.db.host.y"] = "'config.db.host' is a string value",
      ["config.nothing.y"] = "'config.nothing' is a nil value" } do
      local q = p:fork():set(name, 1)
      local socket, err = q:run "type"
      t.eq(socket, nil)
      t.error(err, "REMOTE", text)
      t.ok(err.message:find("can't set '" .. name .. "'", 1, true), err.message)
      t.eq(err.started, "no")
      t.eq(t.status(q).code, 1)
    end
    p:close()
  end)

story.test("metamethods are honoured, as by an assignment", function(t)
  local p = fork.new():eval [[
    seen = {}
    setmetatable(_G, {__newindex = function(g, k, v) seen[k] = v; rawset(g, k, v) end})
    object = setmetatable({}, {__newindex = function(_, k, v) seen["object." .. k] = v end})
    sealed = setmetatable({}, {__newindex = function(_, k) error("no field " .. k, 0) end})
  ]]
  p:set("new", 1):set("object.field", 2)
  t.eq({ look(t, p, "seen.new, new, seen['object.field'], rawget(object, 'field')") },
    { 1, 1, 2, nil })
  local _, err = p:set("sealed.x", 1):run "type"
  t.error(err, "REMOTE", "no field x")
end)

story.test("what can't travel is EINVAL with the path to it, and ends the chain", function(t)
  local cycle = {}
  cycle.a = { cycle }
  local deep = {}
  for _ = 1, 200 do deep = { deep } end
  for text, value in pairs {
    ["value: a function can't be sent"] = print,
    ["value.t.x: a function can't be sent"] = { t = { x = print } },
    ["value.list[3]: a thread can't be sent"] = { list = { 1, 2, coroutine.create(print) } },
    ["value.a[1]: a table that contains itself can't be sent"] = cycle,
    ["nested too deeply"] = deep,
  } do
    local p = fork.new():set("fine", 1):set("bad", value):set("worse", print):eval "error 'late'"
    local socket, err = p:run "type"
    t.eq(socket, nil)
    t.error(err, "EINVAL")
    t.ok(err.message:find("set 'bad': ", 1, true), err.message)
    t.ok(err.message:find(text, 1, true), err.message)
    t.eq(err.started, "no")
    t.eq(t.status(p).code, 1)
  end
end)

story.test("names that can't be: EINVAL; misuse raises", function(t)
  for _, name in ipairs { "", ".", "a.", ".a", "a..b" } do
    local _, err = fork.new():set(name, 1):run "type"
    t.error(err, "EINVAL", "argument #1 of 'set'")
  end
  local p <close> = fork.new()
  t.raises("bad argument #1 to 'set' %(string expected, got number%)", p.set, p, 1, 2)
  t.raises("bad argument #1 to 'set' %(string contains a zero byte%)", p.set, p, "a\0b", 2)
  t.raises("bad argument #1 to 'set' %(string expected, got no value%)", p.set, p)
  t.raises("bad argument #2 to 'set' %(value expected%)", p.set, p, "x")
  t.raises("use a colon", p.set, "x", 1)
  local q = fork.new()
  t.got(q:run "type")
  t.raises("was given run", q.set, q, "x", 1)
  local r = fork.new()
  r:close()
  t.raises("closed", r.set, r, "x", 1)
end)

story.test("every kind of process takes values", function(t)
  local kinds = {
    new = fork.new, new_exec = fork.new_exec, template = fork.template,
    spares = function() return fork.new_exec { spares = { min = 1, max = 2 } } end,
  }
  for kind, make in pairs(kinds) do
    local p <close> = make()
    p:set("kind", { kind })
    t.eq(look(t, p, "kind[1]"), kind)
    t.eq(look(t, p:set("kind", "again"), "kind"), "again")
  end
  local p = fork.new():set("kept", { 1, 2 })
  local handed <close> = fork.from_fd(t.got(p:to_fd()))
  t.eq({ look(t, handed:set("more", 3), "#kept, more") }, { 2, 3 })
end)

story.test("handles in values are the process's, and its clones' own copies", function(t)
  local near, far = fork.socket.pair()
  local p = fork.new():set("pipe", { far, name = "x" })
  far:close()
  for i = 1, 2 do t.eq(look(t, p, ("pipe[1]:write('%d\\n') ~= nil, pipe.name"):format(i)), true) end
  t.eq({ near:read("l", "l") }, { "1", "2" })
  p:close()
  t.eq(near:read "l", nil) -- nobody has the other end any more
  near:close()
  local many, r, w = {}, kit.pipe()
  local handle = setmetatable({}, { __index = { fileno = function() return w end } })
  for i = 1, 17 do many[i] = handle end
  local _, err = fork.new():set("many", many):run "type"
  t.error(err, "LIMIT", "16 handles")
  kit.close(r)
  kit.close(w)
end)

-- The template's pid, from a worker whose parent is the program.
local function kill_template(t, p)
  local pid = t.ok(p:pid())
  kit.kill(pid, 9)
  t.within(10, function()
    local process = kit.processes()[pid]
    return not process or process.state == "Z"
  end)
end

local function pool_of(t, value)
  local p = fork.new_exec():eval "function get() return type(value), #(value.text or value) end"
  p:set("value", { text = "first" }):set("value", value)
  t.got(p:fork():run "type")
  local pool = p:pool("get", { max = 1, backoff = { min = 0 } })
  t.eq({ pool() }, { type(value), #value })
  kill_template(t, p)
  for _, pid in ipairs(pool:pids()) do kit.kill(pid, 9) end
  return pool
end

story.test("a pool whose template died gives its successor the values again", function(t)
  local pool = pool_of(t, ("x"):rep(100000))
  t.within(10, function() return (pool()) == "string" end)
  t.eq({ pool() }, { "string", 100000 })
  t.got(pool:drain(10))
end)

story.test("more than 1 MiB of values is not kept for that", function(t)
  local pool = pool_of(t, ("x"):rep(1 << 20))
  local err
  t.within(10, function() err = select(2, pool()) return err and err.code == "TEMPLATE_DIED" end)
  pool:close()
end)

story.test("hundreds of megabytes need no second copy here",
  { deadline = 120 }, function(t)
    local function peak()
      for line in io.lines "/proc/self/status" do
        local kib = line:match "^VmHWM:%s*(%d+)"
        if kib then return math.tointeger(kib) // 1024 end
      end
    end
    local text, value = ("x"):rep(20 << 20), {}
    for i = 1, 10 do value[i] = text end
    value[11] = text:sub(1, 40000)
    local before = peak()
    local p = fork.new()
    t.got(p:fork():run "type")
    p:set("big", value)
    local sum
    p:fork():eval [[
      function f(s)
        local n = 0
        for _, text in ipairs(big) do n = n + #text end
        s:write(n)
      end
    ]]:run("f", function(err, socket)
      t.eq(err, nil)
      sum = socket
    end)
    t.within(60, function() return sum end)
    sum = math.tointeger(sum:read "a")
    t.eq(sum, 10 * #text + 40000)
    if not story.is_sanitized then
      t.ok(peak() < before + 32, peak() - before .. " MiB more")
    end
    p:close()
  end)

story.test("a value that is longer than a gigabyte is LIMIT, before anything is sent", function(t)
  local value, text = {}, ("x"):rep(16 << 20)
  for i = 1, 65 do value[i] = text end
  local _, err = fork.new():set("big", value):run "type"
  t.error(err, "LIMIT", "set 'big': value%[64%]: the message is too long")
end)

story.done()
