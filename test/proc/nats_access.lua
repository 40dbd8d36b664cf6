-- Who is let in: calls and stored jobs with a user and password, a token, certificates, and credentials of an
-- operator's account, from Lua, from C and from the command line; and what each is told that the server refuses.
local story = require "story"
local fork = require "moonfork"
local helper = require "nats"
local program = require "program"
local kit = story.kit
story.census = false -- nodes and servers are watched by their own stories

local client = os.getenv "MOONFORK_BUILD" .. "/test/help/nats_client"

-- Options of moonfork.nats as words of the command line, with secrets in files.
local function words_of(t, options)
  local words = {}
  for name, value in pairs(options) do
    local is_secret = name == "password" or name == "token"
    words[#words + 1] = is_secret and ("--%s-file %s"):format(name, t:file(name, value .. "\n"))
      or ("--%s '%s'"):format(name, value)
  end
  return table.concat(words, " ")
end

local function c_client(url, options)
  local words = {}
  for name, value in pairs(options) do words[#words + 1] = ("'%s=%s'"):format(name, value) end
  local pipe = io.popen(("timeout 60 '%s' %s s %s 2>&1"):format(client, url, table.concat(words, " ")))
  local text = pipe:read "a"
  pipe:close()
  return text
end

-- Works by all ways with the options `right`; `wrong` is refused, and no message has one of the texts `secret`.
local function try(name, server_options, make)
  helper.test(name, function(t, nats)
    server_options.jetstream = true
    local server = helper.start(t, server_options)
    local right, wrong, secrets = make(t, server)
    local with = ("--engine %s --subject s %s"):format(server.url, words_of(t, right))
    local node = program.start(t, "node " .. with .. " --jobs JOBS --name n -n 1 "
      .. "-e 'function f(...) return \"did\", ... end' f")
    t.outside(30, function() return node.out():find " ready " or node:ended() end, "the node")
    right.subject = "s"
    local far = t.got(nats.pool(server.url, right))
    t.eq({far:call "x"}, {"did", "x"})
    t.eq({far:result(t.got(far:post({}, "x")), 30)}, {"did", "x"})
    far:close()
    right.subject = nil
    -- An array of two strings of MessagePack.
    t.eq(c_client(server.url, right), "call: \x92\xa3did\xa1x\njob: \x92\xa3did\xa1x\n")
    t.eq({program.run("call " .. with .. " x")}, {"did\tx\n", "", 0})
    local out, err, code = program.run("top " .. with)
    t.eq({err, code}, {"", 0})
    t.match(out, "^s, engine up, 1 nodes, 1 workers\njobs of JOBS: ")

    local messages = {}
    wrong.subject = "s"
    far = t.got(nats.pool(server.url, wrong))
    local _, refusal = far:call "x"
    t.error(refusal, "ENGINE", "the engine refused: .*" .. server.url:match "//(.*)":gsub("%p", "%%%0"))
    t.eq(refusal.started, "no")
    messages[1] = refusal.message
    _, refusal = far:post({timeout = 0.2}, "x")
    t.error(refusal, "ENGINE")
    t.eq(refusal.started, "no")
    messages[2] = refusal.message
    far:close()
    wrong.subject = nil
    out = c_client(server.url, wrong)
    t.match(out, "^call: ENGINE no the engine refused: [^\n]+\njob: ENGINE no [^\n]+\n$")
    messages[3] = out
    local words = ("--engine %s --subject s %s"):format(server.url, words_of(t, wrong))
    out, err, code = program.run("call " .. words .. " x")
    t.eq({out, code}, {"", 1})
    t.match(err, "^moonfork call: the engine refused: ")
    messages[4] = err
    out, err, code = program.run("top " .. words)
    t.eq({out, code}, {"", 1})
    t.match(err, "^moonfork top: the engine can't be reached: ")
    messages[5] = err
    for _, message in ipairs(messages) do
      for _, secret in ipairs(secrets) do
        t.ok(not message:find(secret, 1, true), "a message tells a secret: " .. message)
      end
    end
    node:kill(kit.SIGTERM)
    t.eq(node:wait(), 143)
    t.ok(fork.loop())
  end)
end

-- What JSON would take for the end of a text is a character like others.
local USER, PASSWORD = [[a"da\]], [[s3",cret\"]]
try("a user and a password", {user = USER, password = PASSWORD}, function()
  return {user = USER, password = PASSWORD}, {user = USER, password = "wr0ng"}, {PASSWORD, "wr0ng"}
end)

helper.test("a user and a password may stand in the URL, with what means something there as %XX", function(t, nats)
  local server = helper.start(t, {user = "a d/a", password = "p@s:s%41"})
  local host = server.url:match "//(.*)"
  local pool = fork.new():eval "function f(...) return ... end":pool "f"
  local node = t.got(nats.node(pool, ("nats://a%%20d%%2fa:p%%40s%%3As%%2541@%s"):format(host), {subject = "s"}))
  local far = t.got(nats.pool("nats://127.0.0.1:1,nats://a%20d%2Fa:p%40s%3as%2541@" .. host, {subject = "s"}))
  t.eq(far:with{timeout = 30}("x"), "x")
  far:close()
  far = t.got(nats.pool("nats://ada:sec@ret@" .. host, {subject = "s"}))
  local _, err = far:call "x"
  t.error(err, "ENGINE", "the engine refused: .*" .. host:gsub("%p", "%%%0"))
  t.ok(not err.message:find "ret@", err.message)
  far:close()
  node:close()
  pool:close()
  t.ok(fork.loop())
end)

try("a token", {token = "t0ken"}, function() return {token = "t0ken"}, {token = "wr0ng"}, {"t0ken", "wr0ng"} end)

try("certificates of both sides", {tls = "verify"}, function(_, server)
  local function file(name) return server.folder .. "/" .. name end
  return {ca = file "ca.pem", cert = file "client.pem", key = file "client.key"},
    {ca = file "other.pem", cert = file "client.pem", key = file "client.key"}, {}
end)

-- The token of the right user, and a seed that is not his.
try("credentials of an account that an operator has signed", {creds = true}, function(t, server)
  local text = t.read(server.creds)
  local seed = text:match "\n(SU%w+)\n"
  local other = helper.start(t, {creds = true})
  local foreign = t.read(other.creds):match "\n(SU%w+)\n"
  local wrong = t:file("wrong.creds", (text:gsub(seed, foreign)))
  return {creds = server.creds}, {creds = wrong}, {seed, foreign}
end)

local function dashes(name, what) return ("-----%s %s-----\n"):format(name, what) end
local function creds(seed)
  return dashes("BEGIN", "NATS USER JWT") .. "e30.e30.AA\n" .. dashes("-END", "NATS USER JWT") .. "\n"
    .. dashes("BEGIN", "USER NKEY SEED") .. seed .. "\n" .. dashes("-END", "USER NKEY SEED")
end

-- libnats before 3.8 leaves out a signature that begins with a zero byte, as this seed's of "nonce1" does: one
-- connection in 256 was refused to the right credentials.
helper.test("no connection is without its signature", function(t, nats)
  local listener = t.got(fork.socket.listen "127.0.0.1:0")
  listener:settimeout(20)
  local far = t.got(nats.pool("nats://" .. listener:address(), {subject = "s",
    creds = t:file("creds", creds "SUAF3ACURKAMDZCRJLTCMIUCB7FEBBAMBKG4TCFUNT3NSTKY3DIYVMPMXE")}))
  local function accept(nonce)
    local peer = t.got(listener:accept())
    peer:settimeout(20)
    t.got(peer:write(('INFO {"server_id":"x","version":"2.9.10","proto":1,"headers":true,"max_payload":1048576,'
      .. '"auth_required":true,"nonce":"%s"}\r\n'):format(nonce)))
    return peer, (peer:read "l")
  end
  local first, line = accept "nonce1"
  t.eq(line, nil)
  local second
  second, line = accept "nonce2"
  t.match(line, '"jwt":"e30.e30.AA","sig":"[%w_-]+"')
  t.eq(far:stats().engine, "connecting") -- no failure was told
  second:close()
  local third
  third, line = accept "" -- lets everybody in
  t.match(line, '"jwt":"e30.e30.AA","tls_required"')
  far:close()
  for _, socket in ipairs{first, third, listener} do socket:close() end
  t.ok(fork.loop())
end)

helper.test("files that are no certificates or credentials are told as such", function(t, nats)
  local server = helper.start(t, {tls = true})
  local nonsense = t:file("nonsense", "nothing of that kind\n")
  for _, name in ipairs{"ca", "creds"} do
    local far = t.got(nats.pool(server.url, {subject = "s", [name] = nonsense, ca = name ~= "ca"
      and server.folder .. "/ca.pem" or nonsense}))
    local _, err = far:call(1)
    t.error(err, "ENGINE", "the engine refused: ")
    t.eq(err.started, "no")
    far:close()
  end
  for text, message in pairs{["nothing\n"] = "no token and seed", [creds "SUAAAA"] = "a seed that is not valid"} do
    local far = t.got(nats.pool(server.url, {subject = "s", ca = server.folder .. "/ca.pem",
      creds = t:file("creds", text)}))
    local _, err = far:call(1)
    t.error(err, "ENGINE", "the engine refused: the credentials can't be used %(" .. message .. "[^)]*%): /")
    far:close()
  end
  t.ok(fork.loop())
end)

-- The copy that had opened libnats closed it at the end of its last object, below the other one.
helper.test("a library in C and the Lua module in one process", function(t)
  local copies = os.getenv "MOONFORK_BUILD" .. "/test/help/nats_copies"
  if not io.open(copies) then t.skip "built without an interpreter for hosts" end
  local server = helper.start(t, {jetstream = true})
  local with = ("--engine %s --subject s"):format(server.url)
  local node = program.start(t, "node " .. with .. " --jobs JOBS -n 1 -e 'function f(...) return ... end' f")
  t.outside(30, function() return node.out():find " ready " or node:ended() end, "the node")
  local pipe = io.popen(("timeout 60 '%s' %s s 2>&1"):format(copies, server.url))
  local text = pipe:read "a"
  t.eq({pipe:close()}, {true, "exit", 0}, text)
  t.eq(text, "C: x\n" .. ("Lua:\tx\n"):rep(4) .. "C: x\n")
  node:kill(kit.SIGTERM)
  t.eq(node:wait(), 143)
end)

-- The permissions that a reader copies from doc/nats-jobs.md are enough for calls and jobs, and give no more than
-- they say. Two pages had tables that contradicted each other, and one was too narrow for jobs.
local function permissions(page, who)
  local rights = {}
  for row in page:gmatch("\n| " .. who .. ":? [^\n]*") do
    local cells = {}
    for cell in row:gmatch "|([^|\n]*)%f[|]" do cells[#cells + 1] = cell end
    for i, right in ipairs{"publish", "subscribe"} do
      for subject in cells[i + 1]:gmatch "`([^`]+)`" do
        rights[right] = (rights[right] or "") .. ('"%s", '):format((subject:gsub("SUBJECT", "s")))
      end
    end
  end
  return ("{user: %s, password: x, permissions: {publish: [%s], subscribe: [%s]}}"):format(who, rights.publish,
    rights.subscribe)
end

helper.test("callers and nodes with the permissions that the manual names", function(t, nats)
  local page = t.read(os.getenv "MOONFORK_SOURCE" .. "/doc/nats-jobs.md")
  local server = helper.start(t, {jetstream = true, lines = {("authorization {users: [%s, %s]}"):format(
    permissions(page, "caller"), permissions(page, "node"))}})
  local pool = fork.new():eval [[
    function f(what)
      if what == "raise" then error "raised" end
      return "did", what
    end
  ]]:pool "f"
  local node = t.got(nats.node(pool, server.url, {subject = "s", jobs = "JOBS", user = "node", password = "x"}))
  local far = t.got(nats.pool(server.url, {subject = "s", user = "caller", password = "x"}))
  local dead
  far:on_dead(function(id) dead = id end)
  t.eq({far:with{timeout = 30}("x")}, {"did", "x"})
  t.eq({far:result(t.got(far:post({}, "x")), 30)}, {"did", "x"})
  t.eq({far:result(t.got(far:post({delay = 0.2, lease = 3}, "later")), 30)}, {"did", "later"})
  t.eq(far:cancel(t.got(far:post({id = "c", delay = 60}, "never"))), true)
  t.error(select(2, far:result("c", 30)), "CANCELLED")
  local id = t.got(far:post({tries = 1}, "raise"))
  t.error(select(2, far:result(id, 30)), "REMOTE", "raised")
  t.within(10, function() return dead == id end)
  t.eq(t.got(far:jobs()).dead, 1)
  far:close()
  node:close()
  pool:close()
  t.ok(not server:log():find("Violation", 1, true), server:log())
  t.ok(fork.loop())
end)

story.done()
