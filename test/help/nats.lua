-- nats.lua: a real nats-server on 127.0.0.1 for a story, with its store in a temporary folder. It is a
-- child of the test's process and ends with it, however that ends (the kernel kills it).
--
--   local nats = require "nats"
--   local server = nats.start(t, {jetstream = true})     skips the story where there is no nats-server
--   server.url, server.port, server.pid, server:log()
--   server:kill() server:restart()                       the same port, store and certificates
--   server:stop() server:continue()                      SIGSTOP and SIGCONT
--   server:close()                                       also at the end of the story, by itself
--
-- Options: jetstream (true), user and password, token, tls (true; "verify": clients need a certificate),
-- creds (true: accounts signed by an operator; server.creds is a credentials file of its user),
-- ping_interval and ping_max, max_payload, cluster (a name), routes (a list of servers), monitor (true:
-- server.monitor is the URL of its HTTP pages), lines (a list of further lines of its configuration).
--
-- A program without stories (t == nil) ends its servers by close().
--
--   nats.test(name, function(t, moonfork_nats) ... end)  a story; skipped where it can't be
local kit = require "testkit"
local stop = require "stop"

local nats = {}

local scale = tonumber(os.getenv "STORY_SCALE" or "") or 1
local SECONDS = 20 -- to start, and to answer

local function write(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
  return path
end

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

local function remove_tree(path)
  if os.remove(path) then return end
  for _, name in ipairs(kit.ls(path) or {}) do remove_tree(path .. "/" .. name) end
  kit.rmdir(path)
end

local function skip(t, reason)
  if t then t.skip(reason) end
  error(reason, 0)
end

-- Programs of the system, whatever the sanitizers preload here, and in the folders that an ordinary
-- user's PATH lacks.
local function find(name)
  for folder in (os.getenv "PATH" .. ":/usr/sbin:/usr/local/sbin"):gmatch "[^:]+" do
    local file = io.open(folder .. "/" .. name)
    if file then
      file:close()
      return folder .. "/" .. name
    end
  end
end

--- program(t): the path of nats-server; where it is missing the story is skipped.
function nats.program(t)
  return find "nats-server" or skip(t, "there is no nats-server")
end

nats.IS_BUILT = package.searchpath("moonfork.nats_core", package.cpath) ~= nil -- moonfork.nats
nats.CAN_START = nats.IS_BUILT and find "nats-server" ~= nil

function nats.test(name, f)
  require "story".test(name, {deadline = 60}, function(t)
    if not nats.IS_BUILT then t.skip "built without NATS" end
    nats.program(t)
    return f(t, require "moonfork.nats")
  end)
end

-- ---- ports ----

-- Below the kernel's own range, where no connection of somebody's takes the port while its server is
-- down.
local function free_port()
  local fork = require "moonfork"
  for _ = 1, 200 do
    local port = math.random(15000, 31000)
    local listener = fork.socket.listen("127.0.0.1:" .. port)
    if listener then
      listener:close()
      return port
    end
  end
  error "there is no free port"
end

-- ---- certificates ----

local function openssl(folder, words)
  local ok = os.execute(("cd '%s' && LD_PRELOAD= openssl %s >>openssl.log 2>&1"):format(folder, words))
  if not ok then error(("openssl %s:\n%s"):format(words, read(folder .. "/openssl.log")), 0) end
end

--- certificates(t, folder): makes ca.pem, and server and client .pem and .key signed by it; and
-- other.pem, an authority that has signed nothing.
function nats.certificates(t, folder)
  if not find "openssl" then skip(t, "there is no openssl") end
  local curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
  for _, name in ipairs{"ca", "other"} do
    openssl(folder, ("req -x509 %s -subj '/CN=moonfork %s' -keyout %s.key -out %s.pem"):format(curve, name,
      name, name))
  end
  for _, name in ipairs{"server", "client"} do
    write(folder .. "/" .. name .. ".ext", "subjectAltName=IP:127.0.0.1,DNS:localhost\n"
      .. "extendedKeyUsage=serverAuth,clientAuth\n")
    openssl(folder, ("req %s -subj '/CN=%s' -keyout %s.key -out %s.csr"):format(curve, name, name, name))
    openssl(folder, ("x509 -req -days 2 -in %s.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile %s.ext "
      .. "-out %s.pem"):format(name, name, name))
  end
end

-- ---- accounts of an operator: keys and tokens as nsc makes them ----

local BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
local BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

-- Without padding.
local function encode(bytes, alphabet, width)
  local out, acc, n = {}, 0, 0
  for i = 1, #bytes do
    acc, n = (acc << 8 | bytes:byte(i)) & 0xffffff, n + 8
    while n >= width do
      n = n - width
      local digit = (acc >> n) & ((1 << width) - 1)
      out[#out + 1] = alphabet:sub(digit + 1, digit + 1)
    end
  end
  if n > 0 then
    local digit = (acc << (width - n)) & ((1 << width) - 1)
    out[#out + 1] = alphabet:sub(digit + 1, digit + 1)
  end
  return table.concat(out)
end

local function crc16(bytes) -- CCITT, as nkeys take it
  local crc = 0
  for i = 1, #bytes do
    crc = crc ~ (bytes:byte(i) << 8)
    for _ = 1, 8 do
      crc = (crc & 0x8000 ~= 0 and (crc << 1) ~ 0x1021 or crc << 1) & 0xffff
    end
  end
  return crc
end

local function nkey(bytes)
  return encode(bytes .. ("<I2"):pack(crc16(bytes)), BASE32, 5)
end

local KINDS = {operator = 14 << 3, account = 0, user = 20 << 3}
local SEED = 18 << 3

-- A key pair: its public name, its secret, and a file that openssl signs with.
local function key_pair(folder, kind, name)
  local path = folder .. "/" .. (name or kind) .. ".ed"
  openssl(folder, ("genpkey -algorithm ed25519 -outform DER -out '%s'"):format(path))
  openssl(folder, ("pkey -inform DER -in '%s' -pubout -outform DER -out '%s.pub'"):format(path, path))
  local secret, public = read(path):sub(-32), read(path .. ".pub"):sub(-32)
  local prefix = KINDS[kind]
  return {path = path, public = nkey(string.char(prefix) .. public),
    seed = nkey(string.char(SEED | prefix >> 5, (prefix & 31) << 3) .. secret)}
end

local function token(folder, issuer, subject, name, claims)
  local head = encode('{"typ":"JWT","alg":"ed25519-nkey"}', BASE64, 6)
  local body = encode(('{"jti":"%s","iat":%d,"iss":"%s","name":"%s","sub":"%s","nats":%s}'):format(name,
    os.time(), issuer.public, name, subject.public, claims), BASE64, 6)
  local path = folder .. "/" .. name
  write(path .. ".jws", head .. "." .. body)
  openssl(folder, ("pkeyutl -sign -rawin -keyform DER -inkey '%s' -in '%s.jws' -out '%s.sig'"):format(issuer.path,
    path, path))
  return head .. "." .. body .. "." .. encode(read(path .. ".sig"), BASE64, 6)
end

-- Lines of the configuration; user.creds is what a client shows.
local function accounts(t, folder)
  if not find "openssl" then skip(t, "there is no openssl") end
  local operator, account, user = key_pair(folder, "operator"), key_pair(folder, "account"), key_pair(folder, "user")
  local system = key_pair(folder, "account", "system") -- JetStream asks for one
  local operator_token = token(folder, operator, operator, "operator", '{"type":"operator","version":2}')
  local system_token = token(folder, operator, system, "system", '{"type":"account","version":2,"limits":'
    .. '{"subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1}}')
  local account_token = token(folder, operator, account, "account", '{"type":"account","version":2,"limits":'
    .. '{"subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1,'
    .. '"mem_storage":-1,"disk_storage":-1,"streams":-1,"consumer":-1}}')
  local user_token = token(folder, account, user, "user",
    '{"type":"user","version":2,"subs":-1,"data":-1,"payload":-1}')
  write(folder .. "/operator.jwt", operator_token)
  write(folder .. "/user.creds", ("-----BEGIN NATS USER JWT-----\n%s\n------END NATS USER JWT------\n\n"
    .. "-----BEGIN USER NKEY SEED-----\n%s\n------END USER NKEY SEED------\n"):format(user_token, user.seed))
  return {("operator: '%s/operator.jwt'"):format(folder), "resolver: MEMORY",
    ("system_account: %s"):format(system.public), ("resolver_preload: { %s: '%s', %s: '%s' }"):format(
      account.public, account_token, system.public, system_token)}
end

-- ---- the server ----

local function configuration(self, o)
  local lines = {"host: 127.0.0.1", "port: " .. self.port, "server_name: " .. self.name}
  local function add(format, ...) lines[#lines + 1] = format:format(...) end
  if o.jetstream then add("jetstream { store_dir: '%s/store' }", self.folder) end
  if o.ping_interval then add("ping_interval: '%gs'", o.ping_interval) end
  if o.ping_max then add("ping_max: %d", o.ping_max) end
  if o.max_payload then add("max_payload: %d", o.max_payload) end
  if o.user then add("authorization { user: '%s', password: '%s' }", o.user, o.password) end
  if o.token then add("authorization { token: '%s' }", o.token) end
  if self.monitor_port then add("http: 127.0.0.1:%d", self.monitor_port) end
  if o.tls then
    add("tls { cert_file: '%s/server.pem', key_file: '%s/server.key', ca_file: '%s/ca.pem', verify: %s, "
      .. "timeout: %d }", self.folder, self.folder, self.folder, o.tls == "verify", SECONDS)
  end
  if o.cluster then
    local routes = {}
    for i, other in ipairs(o.routes or {}) do routes[i] = ("'nats://127.0.0.1:%d'"):format(other.cluster_port) end
    add("cluster { name: %s, listen: '127.0.0.1:%d', routes: [%s] }", o.cluster, self.cluster_port,
      table.concat(routes, ", "))
  end
  for _, line in ipairs(self.lines) do lines[#lines + 1] = line end
  return table.concat(lines, "\n") .. "\n"
end

local Server = {}
Server.__index = Server

--- log(): what the server has logged.
function Server:log()
  return read(self.folder .. "/log") or ""
end

local function has_ended(self)
  local process = kit.processes()[self.pid]
  return not process or process.state == "Z"
end

-- The first line that the server says to a client, once it serves.
local function hello(self)
  local socket = require "moonfork".socket.connect("127.0.0.1:" .. self.port, 1)
  if not socket then return nil end
  socket:settimeout(1)
  local line = socket:read "l"
  socket:close()
  return line and line:find('"server_name":"' .. self.name .. '"', 1, true) and line
end

-- A child of this process, which the kernel ends with it; what is executed looks whether the parent
-- ended before that was asked for.
local COMMAND = [[echo $$ >'%s/pid.new'; mv '%s/pid.new' '%s/pid'; LD_PRELOAD= exec setpriv --pdeathsig KILL sh -c '
[ "$PPID" = %d ] || exit 1
exec "$@"' sh '%s' -c '%s/conf' >>'%s/log' 2>&1]]

local function launch(self)
  local folder = self.folder
  os.remove(folder .. "/pid")
  self.pipe = assert(io.popen(COMMAND:format(folder, folder, folder, kit.getpid(), self.program, folder, folder), "w"))
  local last = kit.now() + SECONDS * scale
  local function wait(what)
    if kit.now() > last then error(("nats-server: %s\n%s"):format(what, self:log()), 0) end
    kit.msleep(2)
  end
  while not read(folder .. "/pid") do wait "was not started" end
  self.pid = tonumber(read(folder .. "/pid"))
  self.info = hello(self)
  while not self.info do
    if has_ended(self) then return false end
    wait "does not answer"
    self.info = hello(self)
  end
  return true
end

--- kill([signal]): ends the server (SIGKILL), and waits for that.
function Server:kill(signal)
  if not self.pipe then return end
  kit.kill(self.pid, signal or kit.SIGKILL)
  kit.kill(self.pid, kit.SIGCONT)
  self.pipe:close() -- waits for it
  self.pipe = nil
end

--- restart(): on the same port and store; ends it before where it still runs.
function Server:restart()
  self:kill()
  if not launch(self) then error("nats-server has ended:\n" .. self:log(), 0) end
end

--- stop(): SIGSTOP; all of it stands still. continue(): it goes on.
function Server:stop()
  stop(self.pid)
end

function Server:continue()
  kit.kill(self.pid, kit.SIGCONT)
end

--- close(): ends it, and removes all that it has stored.
function Server:close()
  self:kill()
  remove_tree(self.folder)
end

local count = 0

--- start(t, [options]): a server that serves.
function nats.start(t, options)
  local o = options or {}
  count = count + 1
  local self = setmetatable({program = nats.program(t), folder = assert(kit.mkdtemp()),
    name = ("moonfork-%d-%d"):format(kit.getpid(), count), lines = {table.unpack(o.lines or {})}}, Server)
  if t then t:defer(function() self:close() end) end
  if o.tls then nats.certificates(t, self.folder) end
  if o.creds then
    table.move(accounts(t, self.folder), 1, 4, #self.lines + 1, self.lines)
    self.creds = self.folder .. "/user.creds"
  end
  for try = 1, 5 do -- somebody else may take a port meanwhile
    self.port = free_port()
    self.cluster_port, self.monitor_port = o.cluster and free_port(), o.monitor and free_port()
    write(self.folder .. "/conf", configuration(self, o))
    if launch(self) then break end
    self:kill()
    if try == 5 or not self:log():find "address already in use" then
      error("nats-server has ended:\n" .. self:log(), 0)
    end
  end
  self.url = ("%s://127.0.0.1:%d"):format(o.tls and "tls" or "nats", self.port)
  self.monitor = self.monitor_port and ("http://127.0.0.1:%d"):format(self.monitor_port)
  return self
end

--- cluster(t, [options]): two servers that know each other; a client of one is told of the other.
function nats.cluster(t, options)
  local first, second = {cluster = "moonfork"}, {cluster = "moonfork"}
  for key, value in pairs(options or {}) do first[key], second[key] = value, value end
  local a = nats.start(t, first)
  second.routes = {a}
  local b = nats.start(t, second)
  local last = kit.now() + SECONDS * scale
  local function knows(server, other)
    local line = hello(server)
    return line and line:find(("127.0.0.1:%d"):format(other.port), 1, true)
  end
  while not (knows(a, b) and knows(b, a)) do
    if kit.now() > last then error("the servers do not find each other:\n" .. b:log(), 0) end
    kit.msleep(5)
  end
  return a, b
end

-- ---- a link that can be cut ----

local RELAY = [[
function relay(control, listener, target)
  local socket, kit = require "moonfork".socket, require "testkit"
  local other, watched = {}, {control, listener}
  local function forget(s)
    for i, one in ipairs(watched) do
      if one == s then table.remove(watched, i) break end
    end
  end
  local function part(s)
    local peer = other[s]
    for _, one in ipairs{s, peer} do forget(one) other[one] = nil one:close() end
  end
  while true do
    for _, s in ipairs(socket.poll(watched)) do
      if s == control then return end
      if s == listener then
        local a, b = listener:accept(), socket.connect(target)
        if a and b then
          other[a], other[b] = b, a
          watched[#watched + 1], watched[#watched + 2] = a, b
        elseif a then
          a:close()
        end
      elseif other[s] then
        local data = kit.read(s:fileno(), 65536)
        if not data or data == "" or not other[s]:write(data) then part(s) end
      end
    end
  end
end]]

local Link = {}
Link.__index = Link

--- cut(): nothing passes any more, and nobody is told. mend(): it goes on. close(): all connections end.
function Link:cut()
  stop(self.process:pid())
end
function Link:mend() self.process:kill "CONT" end
function Link:close()
  self.process:kill "KILL"
  self.process:wait()
  self.process:close()
  self.control:close()
end

--- link(t, server): a relay in front of the server; link.url leads through it.
function nats.link(t, server)
  local fork = require "moonfork"
  local listener = assert(fork.socket.listen "127.0.0.1:0")
  local address = listener:address()
  local process = fork.new_exec():eval(RELAY):send_fd(listener):send_arg("127.0.0.1:" .. server.port)
  listener:close()
  local self = setmetatable({process = process, control = assert(process:run "relay")}, Link)
  self.url = server.url:match "^%a+://" .. address
  if t then t:defer(function() self:close() end) end
  return self
end

return nats
