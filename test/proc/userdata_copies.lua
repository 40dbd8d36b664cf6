-- Userdata in copies of an interpreter: images, clones in threads, pseudo-processes. One policy
-- for all three (src/image/userdata.h): known types, __clone, or plain memory; everything else
-- is refused with type and path, and never freed twice.
local story = require "story"
local pseudo = require "pseudo"
local fork = require "moonfork"

-- Why a use is not there in this build; nil: it is.
local function probe(use)
  local p = fork.new_exec()
  local path = os.tmpname()
  local q, _, err = p
  if use == "image" then _, err = p:save(path) else
    q = p:fork{isolation = "thread"}
    _, err = q:run("type")
  end
  os.remove(path)
  if q ~= p then q:close() end
  p:close()
  fork.loop()
  return err and err.code == "UNSUPPORTED" and err.message or nil
end
local missing = {image = probe "image", thread = probe "thread"}
missing.pseudo = missing.image or missing.thread -- the same self-check, and what sanitizers do

local ANSWER = "function check_copy(answer_to) answer_to:write((assert((function() %s\nend)()))) end"

local ways = {}

-- code makes globals; what check returns, a string, or the error's code and text.
function ways.image(t, code, check)
  local path = t:file "image"
  os.remove(path)
  local p = fork.new_exec():eval(code)
  local ok, err = p:save(path)
  t.got(p:memory()) -- the process goes on
  p:close()
  if not ok then return nil, err.code, err.message end
  local q = fork.load(path)
  local r = q:fork()
  local socket
  socket, err = r:eval(ANSWER:format(check))
    :run "check_copy"
  if not socket then return nil, err.code, err.message end
  local text = socket:read "a"
  t.eq(t.got(r:wait()).code, 0)
  r:close()
  q:close()
  return text
end

function ways.thread(t, code, check)
  local p = fork.new_exec():eval(code)
    :eval(ANSWER:format(check))
  local texts = {}
  for i = 1, 2 do -- the second by what the first has noted
    local r = p:fork{isolation = "thread"}
    local socket, err = r:run "check_copy"
    if not socket then
      t.got(p:memory())
      return nil, err.code, err.message
    end
    texts[i] = socket:read "a"
    t.eq(t.got(r:wait()).code, 0)
    r:close()
  end
  t.eq(texts[2], texts[1])
  t.got(p:memory())
  p:close()
  return texts[1]
end

function ways.pseudo(t, code, check)
  local out, err, status = pseudo.run(t, ([[
    do %s
    end
    local function check() %s
    end
    local pid, err = fork()
    if not pid then print("refused " .. tostring(err)) os.exit(0, true) end
    if pid == 0 then io.write("copy ", (assert(check()))) os.exit(0, true) end
    assert(select(2, waitpid(pid)) == 0)
    collectgarbage()]]):format(code, check))
  t.eq(err, "")
  t.eq(status, 0)
  local refused = out:match "^refused (.*)\n$"
  if refused then return nil, "FORK_FAILED", refused end
  return out:match "^copy (.*)$"
end

local CODES = {image = "EINVAL", thread = "UNSUPPORTED", pseudo = "FORK_FAILED"}

-- want[use]: the text of check, or {a pattern of the refusal}; want itself: for all three.
local function compare(t, code, check, want)
  local seen = 0
  for _, use in ipairs{"image", "thread", "pseudo"} do
    local expected = type(want) == "table" and want[use] or want
    if not missing[use] then
      seen = seen + 1
      local text, err_code, message = ways[use](t, code, check)
      if type(expected) == "table" then
        t.ok(text == nil, ("%s: refused (%s)"):format(use, tostring(text)))
        t.match(message, expected[1], use)
        t.eq(err_code, expected.code or CODES[use], use)
      else
        t.eq(text or message, expected, use)
      end
    end
  end
  if seen == 0 then t.skip(missing.image) end
end

local function all(pattern)
  return {image = {pattern}, thread = {pattern}, pseudo = {pattern}}
end

-- A module that an image refuses before its objects: its static data has changed.
local function of_static(pattern)
  return {image = {"static data of .*%.so"}, thread = {pattern}, pseudo = {pattern}}
end

local OBJECTS = "objects = require 'objects' "

story.test("plain memory is copied: bytes, own words, a module's words, user values", function(t)
  compare(t, OBJECTS .. [[
    u = objects.new({__name = "plain"}, 2)
    objects.set(u, 1, 4711)
    objects.set(u, 2, "variable")
    objects.set(u, 3, "function")
    objects.set(u, 4, "self")
    local list = {7}
    debug.setuservalue(u, list, 1)
    debug.setuservalue(u, u, 2)
    raw = objects.new(nil)
    objects.set(raw, 1, "function")
    meta = {__gc = function() end}]], [[
    collectgarbage()
    local list, self = debug.getuservalue(u, 1), debug.getuservalue(u, 2)
    return table.concat({objects.get(u, 1), objects.kind(u, 2), objects.kind(u, 3), objects.kind(u, 4),
      list[1], tostring(self == u), objects.kind(raw, 1)}, " ")]],
    "4711 variable function self 7 true function")
end)

story.test("what nobody vouches for is refused, by type and path", function(t)
  for _, case in ipairs{
    {"app = {cache = {[3] = objects.new{__name = 'x', __gc = objects.free}}}", "finaliser", "cache%[3%]"},
    {"app = {cache = {[3] = objects.new{__name = 'x', __gc = function() end}}}", "finaliser", "cache%[3%]"},
    {"app = {objects.new{__name = 'x'}} objects.set(app[1], 1, 'malloc')", "memory", "app%[1%]"},
    {"local u = objects.new{__name = 'x', __gc = objects.free} app = function() return u end", "finaliser",
      "app"},
  } do
    compare(t, OBJECTS .. case[1], "return 'x'", {
      image = {"type 'x' %(.*" .. case[3] .. ".*%): .*" .. case[2]},
      thread = {"type 'x' %(.*" .. case[3] .. ".*%): .*" .. case[2]},
      pseudo = {"type x %(.*" .. case[3] .. ".*%).*" .. case[2]},
    })
  end
end)

story.test("__clone vouches, and is called once for each, in the copy", function(t)
  compare(t, OBJECTS .. [=[
    calls, meta = {}, {__name = "x", __gc = objects.free}
    total = 0
    function meta.__clone(o)
      calls[o] = (calls[o] or 0) + 1
      total = total + 1
      assert(debug.getmetatable(o) == meta)
      objects.renew(o)
    end
    local function new(n) local o = objects.new(meta, n) objects.set(o, 1, "malloc") return o end
    one, key = new(), {[new()] = "key"}
    weak = setmetatable({}, {__mode = "v"})
    held = {new()}
    weak[1] = held[1]
    ephemeron = setmetatable({[one] = new()}, {__mode = "k"})
    values = new(3)
    debug.setuservalue(values, new(), 3)
    local up = new()
    function upvalue() return up end
    generator = coroutine.wrap(function() local o <const> = new() coroutine.yield() return o end)
    generator()
    plain = {}
    for i = 1, 3 do plain[i] = objects.new{__name = "y", __clone = function(o) objects.set(o, 2, i) end} end]=],
    [=[
    collectgarbage()
    local n = 0
    for o, k in pairs(calls) do assert(k == 1) n = n + 1 end
    assert(weak[1] == held[1] and calls[one] and calls[upvalue()] and calls[next(key)])
    assert(calls[debug.getuservalue(values, 3)] and calls[ephemeron[one]] and calls[generator()])
    return table.concat({n, total, objects.get(plain[1], 2), objects.get(plain[3], 2)}, " ")]=], "8 8 1 3")
end)

story.test("an error in __clone names type and path", function(t)
  local code = OBJECTS .. [[
    app = {list = {[2] = objects.new{__name = "fragile", __clone = function() error("broken on purpose") end}}}]]
  local thrown = OBJECTS .. [[
    app = {list = {[2] = objects.new{__name = "fragile", __clone = function() error({}) end}}}]]
  local none = OBJECTS .. [[app = {list = {[2] = objects.new{__name = "fragile", __clone = 5}}}]]
  for _, case in ipairs{{code, "broken on purpose"}, {thrown, "table"}, {none, "attempt to call a number value"}} do
    local pattern = "__clone of userdata of type 'fragile' %(.*app%.list%[2%].*%): .*" .. case[2]
    compare(t, case[1], "return 'x'", {image = {pattern, code = "EINVAL"}, thread = {pattern, code = "REMOTE"},
      pseudo = {"__clone of the userdata of type fragile %(.*app%.list%[2%].*%): .*" .. case[2]}})
  end
end)

story.test("a hook may drop the last reference to another object", function(t)
  compare(t, OBJECTS .. [[
    names, list = {}, {}
    local meta = {__gc = objects.free, __clone = function(o)
      objects.renew(o)
      names[#names + 1] = "called"
      list = {}
      for _ = 1, 3 do collectgarbage() end
    end}
    for i = 1, 10 do list[i] = objects.new(meta) objects.set(list[i], 1, "malloc") end]],
    "return tostring(#names)", "10")
end)

-- ---- modules ----

-- uses: what each says; code and check as above.
local MODULES = {
  {"lpeg", "lpeg = require 'lpeg' p = lpeg.Ct((lpeg.C(lpeg.R'az'^1) + 1)^0)",
    "collectgarbage() return table.concat(p:match 'ab 1 cd', ',')", "ab,cd"},
  {"lfs", "lfs = require 'lfs' for _ in lfs.dir '/' do end", "return lfs.attributes('/', 'mode')", "directory"},
  {"lfs", "lfs = require 'lfs' next_name, dir = lfs.dir '/'", "return 'x'", all "directory metatable.*open"},
  {"lfs", "lfs = require 'lfs' next_name, dir = lfs.dir '/' dir:close()", "return tostring(pcall(next_name, dir))",
    "false"},
  {"socket", "socket = require 'socket'", "return type(socket.gettime())", "number"},
  {"socket", "socket = require 'socket' s = socket.tcp() s:close() u = socket.udp() u:close()",
    "return tostring(s):match '^[^:]*' .. math.tointeger(s:getfd())", "tcp{master}-1"},
  {"socket", "socket = require 'socket' s = assert(socket.bind('127.0.0.1', 0)) s:settimeout(10)", [[
    local client = socket.tcp()
    assert(client:connect(s:getsockname()))
    client:send "through\n"
    local line = s:accept():receive()
    client:close()
    return line]], {image = {"tcp{server}.*open"}, thread = "through", pseudo = "through"}},
  {"mime", "mime = require 'mime'", "return (mime.b64 'x')", "eA=="},
  {"cjson", "cjson = require 'cjson'", "return cjson.encode{1}", all "cjson"},
  {"cqueues", "cqueues = require 'cqueues' q = cqueues.new()", "return 'x'", all "finaliser"},
  {"luasql.sqlite3", [[sql = require "luasql.sqlite3" env = sql.sqlite3() c = env:connect ":memory:" c:close()]],
    "return tostring(env:connect ':memory:' ~= nil)", "true"},
  {"luasql.sqlite3", [[sql = require "luasql.sqlite3" env = sql.sqlite3() c = env:connect ":memory:"]],
    "return 'x'", all "SQLite3 connection.*open"},
  {"luv", "luv = require 'luv' timer = luv.new_timer()", "return 'x'", of_static "userdata"},
  {"zlib", "zlib = require 'zlib'", "return zlib.inflate()(zlib.deflate()('text', 'finish'))", "text"},
  {"zlib", "zlib = require 'zlib' stream = zlib.deflate()", "return 'x'", all "finaliser"},
  {"lxp", "lxp = require 'lxp' parser = lxp.new{}", "return 'x'", all "finaliser"},
  {"rex_pcre2", "rex = require 'rex_pcre2' r = rex.new 'a+'", "return 'x'", all "finaliser"},
  {"openssl.digest", "digest = require 'openssl.digest' d = digest.new 'sha256'", "return 'x'",
    of_static "finaliser"},
  {"ssl", "ssl = require 'ssl' context = assert(ssl.newcontext{mode = 'client', protocol = 'any'})",
    "return 'x'", all "finaliser"},
  {"term", "term = require 'term'", "return type(term.isatty)", "function"},
  {"yaml", "yaml = require 'yaml'", "return type(yaml)", "table"},
}

for _, m in ipairs(MODULES) do
  story.test(("%s: %s"):format(m[1], m[2]:sub(1, 60)), {needs = m[1]}, function(t)
    compare(t, m[2], m[3], m[4])
  end)
end

story.done()
