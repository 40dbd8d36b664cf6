-- The NATS server of a command: where it is, how one is let in; and `local`, a server of one's own.
--
-- A local server listens on 127.0.0.1 only, and lets in who knows a token. Its folder, which only its
-- user can read, has its configuration, its store, and the file `engine` with its URL and token, by
-- which other commands of that user find it. It is a process of the command that has started it, and
-- the kernel ends it with that, however that ends; where it dies alone it is started again.

local cli = require "moonfork.cli"
local interrupt = require "moonfork.cli.interrupt"
local json = require "moonfork.json"

local engine = {}

engine.url = {long = "--engine", value = "URL",
  help = "The NATS server: nats://HOST:PORT or tls://HOST:PORT, several with commas between them; "
    .. "`local`: one of your own (see moonfork-node(1), LOCAL)"}
engine.subject = {long = "--subject", value = "S", needs = {"--engine"},
  help = "The subject that nodes and callers have in common"}

--- Options that let one in.
engine.access = {
  {long = "--user", value = "NAME", help = "Name for the NATS server"},
  {long = "--password-file", value = "FILE", kind = "file", help = "File with the password, a line"},
  {long = "--token-file", value = "FILE", kind = "file", help = "File with a token, a line"},
  {long = "--creds", value = "FILE", kind = "file", help = "Credentials file, as nsc writes it"},
  {long = "--ca", value = "FILE", kind = "file", help = "TLS: certificates of the authorities to trust (PEM)"},
  {long = "--cert", value = "FILE", kind = "file", help = "TLS: the certificate to show"},
  {long = "--key", value = "FILE", kind = "file", help = "TLS: its key"},
  {long = "--store", value = "DIR", kind = "file",
   help = "Folder of the local server", default = "moonfork/nats in $XDG_STATE_HOME or ~/.local/state"},
}
for _, option in ipairs(engine.access) do option.needs = {"--engine"} end

engine.note = {"Local", [[
--engine local starts the nats-server that is installed, on 127.0.0.1, with stored jobs in the folder
--store. It ends with the node, also when that is killed, and keeps its store and its port for the
next time. Other commands of the same user find it by --engine local and the same folder. A second
node uses the server of the first.]]}

local function read_line(path)
  local file, message = io.open(path)
  if not file then cli.fail(cli.UNUSABLE, "%s", message) end
  local line
  line, message = file:read "l"
  file:close()
  if not line or line == "" then
    cli.fail(cli.UNUSABLE, "%s: a line was expected%s", path, message and " (" .. message .. ")" or "")
  end
  return line
end

local function check_file(path)
  if not path then return end
  local file, message = io.open(path)
  if not file then cli.fail(cli.UNUSABLE, "%s", message) end
  local _, why = file:read(0) -- of a folder
  file:close()
  if why then cli.fail(cli.UNUSABLE, "%s: %s", path, why) end
end

--- load(): the module moonfork.nats. Ends the program where this moonfork was built without it.
function engine.load()
  local ok, nats = pcall(require, "moonfork.nats")
  if ok then return nats end
  local missing = tostring(nats):find("module 'moonfork.nats", 1, true)
  cli.fail(cli.UNUSABLE, "%s", missing and "this moonfork was built without NATS (Debian: libnats-dev)"
    or require("moonfork.serve_log").one_line(tostring(nats)))
end

--- check_store(options, command): --store has a meaning; command: its name.
function engine.check_store(options, command)
  if options.store and options.engine ~= "local" then
    cli.fail(cli.USAGE, "--store is the folder of --engine local; see moonfork %s --help", command)
  end
end

--- check(options, command): that, and --engine and --subject are there.
function engine.check(options, command)
  for _, name in ipairs{"engine", "subject"} do
    if not options[name] then
      cli.fail(cli.USAGE, "--%s is missing; see moonfork %s --help", name, command)
    end
  end
  engine.check_store(options, command)
end

-- ---- a server of one's own ----

local SECONDS = 20 -- for its start
local RESTART_MIN, RESTART_MAX = 0.1, 5

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function folder_of(options)
  if options.store then return options.store end
  local state, home = os.getenv "XDG_STATE_HOME", os.getenv "HOME"
  if state and state ~= "" then return state .. "/moonfork/nats" end
  if not home or home == "" then
    cli.fail(cli.USAGE, "--engine local: neither XDG_STATE_HOME nor HOME is set; give --store DIR")
  end
  return home .. "/.local/state/moonfork/nats"
end

-- Also in the folders that an ordinary user's PATH lacks; nil: it is not there.
local function find(name)
  for folder in ((os.getenv "PATH" or "") .. ":/usr/local/sbin:/usr/sbin"):gmatch "[^:]+" do
    local path = folder .. "/" .. name
    local file = require("moonfork.load").file(path)
    if file and file.executable and not file.directory then return path end
  end
end

local function find_program()
  return find "nats-server"
    or cli.fail(cli.UNUSABLE, "--engine local: there is no nats-server in PATH (Debian: nats-server)")
end

-- Whether the server of that name serves there: the first line that it says.
local function is_serving(fork, known)
  local socket = fork.socket.connect("127.0.0.1:" .. known.port, 1)
  if not socket then return false end
  socket:settimeout(1)
  socket:limit(65536)
  local line = socket:read "l"
  socket:close()
  return line ~= nil and line:find(('"server_name":"%s"'):format(known.name), 1, true) ~= nil
end

-- What the file `engine` says; nil where there is none.
local function read_known(folder)
  local file = io.open(folder .. "/engine")
  local text = file and file:read "a"
  if file then file:close() end
  local known = text and json.decode(text)
  if type(known) ~= "table" or math.type(known.port) ~= "integer" or type(known.token) ~= "string"
    or type(known.name) ~= "string" then return nil end
  return known
end

-- A new file that nobody else can read, in a folder that nobody else can look into. The shell knows umask;
-- what Lua does itself has the system's reason. nil, why
local function write_private(folder, name, text)
  local path = folder .. "/" .. name
  local new = path .. ".new"
  local pipe = assert(io.popen(("umask 077; { mkdir -p %s && rm -f %s && : >%s; } 2>&1"):format(quote(folder),
    quote(new), quote(new))))
  local said = pipe:read "a"
  if not pipe:close() then return nil, said:match "[^\n]+" or new end
  local file, why = io.open(new, "r+")
  if not file then return nil, why end
  local ok
  ok, why = file:write(text)
  if not ok then
    file:close()
    return nil, new .. ": " .. why
  end
  ok, why = file:close()
  if not ok then return nil, new .. ": " .. why end
  ok, why = os.rename(new, path)
  if not ok then return nil, path .. ": " .. why end
  return true
end

local CONFIGURATION = [[
listen: 127.0.0.1:%d
server_name: %s
authorization { token: "%s" }
jetstream { store_dir: "%s/store" }
log_file: "%s/log"
log_size_limit: 10485760
ping_interval: "2s"
ping_max: 2
]]

-- A store is one server's: two that write into it destroy it. The server has the lock as long as it
-- lives, because flock executes it in its own place.
local LOCKED = 75
local START = [[-- =moonfork
local program = ...
local words = {select(2, ...)}
function start(socket)
  socket:close()
  local _, message = require("moonfork.clone").exec(program, words)
  error(program .. " can't be executed: " .. message, 0)
end
]]

local function command_of(self)
  local flock = find "flock"
  if not flock then -- as on systems without util-linux
    return self.program, "nats-server", "-c", self.configuration
  end
  return flock, "flock", "-n", "-E", LOCKED, "-F", self.folder .. "/lock", self.program, "-c", self.configuration
end

-- port, or any where it is 0; nil: it is in use.
local function free_port(fork, port)
  local listener = fork.socket.listen("127.0.0.1:" .. port)
  if not listener then return nil end
  local address = listener:address()
  listener:close()
  return math.tointeger(tonumber(address:match ":(%d+)$"))
end

local function last_line(path)
  local file = io.open(path)
  if not file then return "" end
  local text = file:read "a"
  file:close()
  return text:match "([^\n]*)\n?$"
end

local NOT_WRITTEN = "the folder of the server can't be written (--store): "

local Local = {}
Local.__index = Local

-- One life of the server; on_exit sees to the next. The configuration is written for each, because a node
-- whose server serves takes away those of others.
local function launch(self)
  local fork, known = self.fork, self.known
  local written, why = write_private(self.folder, self.configuration:match "[^/]+$",
    CONFIGURATION:format(known.port, known.name, known.token, self.folder, self.folder))
  if not written then return nil, NOT_WRITTEN .. why end
  local process = fork.new_exec{session = "new", stdin = "null", stdout = "null", stderr = "null",
    name = "nats-server"}
  process:eval(START, command_of(self))
  self.process, self.ended = process, nil
  local socket, err = process:run "start"
  if not socket then return nil, err.message end
  socket:close()
  process:on_exit(function(status)
    self.ended = status
    process:close()
    if self.is_serving and not self.closing then self:restart(status) end
  end)
  return true
end

local function wait_for(self)
  local fork = self.fork
  local last = os.time() + SECONDS
  while not is_serving(fork, self.known) do
    if interrupt.code then return nil, "interrupted" end
    if self.ended and self.ended.code == LOCKED then return nil, "locked" end
    if self.ended then
      return nil, ("nats-server has ended: %s (%s/log)"):format(last_line(self.folder .. "/log"), self.folder)
    end
    if os.time() > last then return nil, ("nats-server does not serve after %d s"):format(SECONDS) end
    fork.sleep(0.02)
  end
  return true
end

--- restart(status): it has died.
function Local:restart(status)
  if status.code ~= LOCKED then -- else another node has started one meanwhile, which serves this one, too
    self.log("error", "engine ended", {status = status.signal and "signal " .. status.signal or status.code})
  end
  self.delay = math.min((self.delay or RESTART_MIN / 2) * 2, RESTART_MAX)
  self.timer = self.fork.timer(self.delay, function()
    self.timer = nil
    if self.closing then return end
    local ok, message = launch(self)
    if not ok then
      self.log("error", "engine not started", {message = message})
      return self:restart{code = 1}
    end
    self.fork.timer(RESTART_MAX, function() self.delay = nil end)
  end)
end

--- close(): ends it, and waits for that.
function Local:close()
  self.closing = true
  if self.timer then self.timer:close() end
  os.remove(self.configuration)
  if self.ended or not self.process then return end
  self.process:kill "TERM"
  if not self.process:wait(5) then
    self.process:kill "KILL"
    self.process:wait()
  end
end

-- A configuration has no way to write these.
local function check_folder(folder)
  if folder:find '[%c"\\$]' then
    cli.fail(cli.USAGE, "--store: %s has a character that nats-server's configuration can't have", folder)
  end
end

local function absolute(folder)
  if folder:sub(1, 1) == "/" then return folder end
  return (os.getenv "PWD" or ".") .. "/" .. folder
end

-- Under names of its own until it serves: another node may try the same at the same time. The token stays,
-- so that nodes which have known an earlier server find this one.
local function try_start(fork, folder, log, known)
  local clone = require "moonfork.clone"
  local id = clone.id()
  local self = setmetatable({fork = fork, folder = folder, log = log, program = find_program(),
    configuration = ("%s/conf-%s"):format(folder, id:sub(1, 16))}, Local)
  local port = known and free_port(fork, known.port) or free_port(fork, 0)
  if not port then cli.fail(cli.FAILED, "--engine local: 127.0.0.1 has no free port") end
  self.known = {port = port, token = known and known.token or id,
    name = known and known.name or "moonfork-" .. id:sub(1, 16)}
  local ok, message = launch(self)
  if ok then ok, message = wait_for(self) end
  if not ok then
    self:close()
    return nil, message
  end
  ok, message = write_private(folder, "engine", json.encode(self.known) .. "\n")
  if not ok then
    self:close()
    return nil, NOT_WRITTEN .. message
  end
  -- those of nodes that were killed; a younger one may be of a node that is about to find the lock taken
  os.execute(("find %s -maxdepth 1 -name 'conf-*' -mmin +1 ! -name %s -exec rm -f {} +"):format(quote(folder),
    quote(self.configuration:match "[^/]+$")))
  self.is_serving = true
  return self
end

local function start_local(fork, options, log)
  local folder = absolute(folder_of(options))
  check_folder(folder)
  local last, tries = os.time() + SECONDS, 0
  while true do
    local known = read_known(folder)
    if known and is_serving(fork, known) then return known end
    local self, message = try_start(fork, folder, log, known)
    if self then return self.known, self end
    if interrupt.code then return nil end
    if message == "locked" then
      message = ("another server has the store %s, and does not serve"):format(folder)
      if os.time() > last then cli.fail(cli.UNUSABLE, "--engine local: %s", message) end
      fork.sleep(0.1) -- one that is being started
    else -- another program may take the port between two steps
      tries = tries + 1
      if tries == 5 or not message:find "in use" then cli.fail(cli.UNUSABLE, "--engine local: %s", message) end
    end
  end
end

--- shown(url): without what stands before an @, which may be a password.
function engine.shown(url)
  return (url:gsub("[^,]+", function(one) return (one:gsub("^(%a*:?/?/?)[^/]*@", "%1")) end))
end

local function check_url(url)
  local fault = url == "" and "it is empty" or require("moonfork.nats_core").url_fault(url)
  if fault then cli.fail(cli.USAGE, "--engine: '%s' can't be used: %s", engine.shown(url), fault) end
end

--- open(fork, options [, log]): the URL, what moonfork.nats takes besides, and for `local` the server,
-- with close(), where it was started here. log(level, event, fields): may start one; else it has to be
-- there. nil: it was being started when a signal ended that (interrupt.code).
function engine.open(fork, options, log)
  if options.engine ~= "local" then check_url(options.engine) end
  local access = {subject = options.subject, user = options.user, creds = options.creds, ca = options.ca,
    cert = options.cert, key = options.key}
  if options.password_file then access.password = read_line(options.password_file) end
  if options.token_file then access.token = read_line(options.token_file) end
  for _, name in ipairs{"creds", "ca", "cert", "key"} do check_file(options[name]) end
  if options.engine ~= "local" then return options.engine, access end
  local known, server
  if log then
    known, server = start_local(fork, options, log)
    if not known then return nil end
  else
    local folder = absolute(folder_of(options))
    known = read_known(folder)
    if not known then -- one that is being started again is waited for
      cli.fail(cli.FAILED, "--engine local: no server was started in %s; `moonfork node --engine local` does that",
        folder)
    end
  end
  access.token = known.token
  return "nats://127.0.0.1:" .. known.port, access, server
end

return engine
