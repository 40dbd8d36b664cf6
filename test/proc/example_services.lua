-- The files of example/service: the systemd units and the command of the container, each run as
-- systemd or a container engine would, though neither is needed here.
local story = require "story"
local fkit = require "faultkit"
local fork = require "moonfork"
local program = require "program"
local kit = story.kit
story.census = false -- the servers are programs of their own; the stories look for them by pid

local folder = os.getenv "MOONFORK_SOURCE" .. "/example/service/"

local function read(name)
  local f = assert(io.open(folder .. name))
  local text = f:read "a"
  f:close()
  return text
end

local function words_of(text)
  local words = {}
  for word in text:gmatch "%S+" do words[#words + 1] = word end
  return words
end

local function ask(t, path)
  local socket = t.got(fork.socket.connect(path))
  socket:settimeout(10 * story.scale):write "moon\n"
  local answer = socket:read "l"
  socket:close()
  return answer
end

story.test("the units: a server on the socket that it is passed, which says when it is ready",
  function(t)
  local service = read "hello.service"
  local argv = words_of(service:match "\nExecStart=([^\n]+)")
  t.eq(table.remove(argv, 1), "/usr/bin/moonfork")
  t.match(read "hello.socket", "\nListenStream=7000\n")
  local notify, path = t:file "notify", t:file "passed"
  local inbox = t.got(fork.socket.listen("unixgram:" .. notify)):settimeout(10 * story.scale)
  local listener = t.got(fork.socket.listen(path))
  local p = fork.new { cwd = folder, stdout = "null", env = { NOTIFY_SOCKET = notify, LISTEN_FDS = 1 } }
    :eval [[function go(_, listener, program, ...)
      error(require("moonfork.clone").exec(program, {"moonfork", ...}, {fds = {[3] = listener}}))
    end]]:send_fd(listener):send_arg(program.path, table.unpack(argv))
  t.got(p:run "go"):close()
  t.eq(inbox:read "a", "READY=1")
  t.eq(ask(t, path), "hello moon")
  t.ok(p:kill())
  t.eq(t.status(p).code, 143)
  t.match(service, "\nSuccessExitStatus=143\n") -- a server that was stopped has not failed
  listener:close()
  inbox:close()
end)

story.test("systemd has nothing to say about the units", function(t)
  if not os.execute "systemd-analyze --version >/dev/null 2>&1" then t.skip "no systemd-analyze" end
  for _, name in ipairs { "hello.service", "hello.socket" } do
    t:file(name, (read(name):gsub("/usr/bin/moonfork", program.path):gsub("/srv/hello", "/tmp")))
  end
  -- notify-reload is of systemd 253; older ones warn.
  local pipe = assert(io.popen(("systemd-analyze verify --man=no '%s' '%s' 2>&1"):format(
    t:file "hello.socket", t:file "hello.service")))
  local complaints = {}
  for line in pipe:lines() do
    if line:find "/hello%.s" and not line:find "notify%-reload" then
      complaints[#complaints + 1] = line
    end
  end
  pipe:close()
  t.eq(table.concat(complaints, "\n"), "")
end)

-- The units of a page, as files: their names stand in their first lines.
local function units_of_page(t, page)
  local names = {}
  for body in t.read(os.getenv "MOONFORK_SOURCE" .. "/doc/" .. page):gmatch "```ini\n(.-)```" do
    local name = body:match "^# /etc/systemd/system/(%S+)"
    t.ok(name, "a unit without a name in " .. page)
    names[#names + 1] = name
    -- Programs and users that this machine need not have.
    t:file(name, (body:gsub("ExecStart=%S+", "ExecStart=" .. program.path):gsub("User=%S+", "User=daemon")))
  end
  return names
end

story.test("systemd has nothing to say about the units of the page about NATS", function(t)
  if not os.execute "systemd-analyze --version >/dev/null 2>&1" then t.skip "no systemd-analyze" end
  local names, words, complaints = units_of_page(t, "nats-jobs.md"), {}, {}
  t.eq(names, {"nats.service", "mail-node.service"})
  for i, name in ipairs(names) do words[i] = ("'%s'"):format(t:file(name)) end
  local pipe = assert(io.popen(("systemd-analyze verify --man=no %s 2>&1"):format(table.concat(words, " "))))
  for line in pipe:lines() do
    if line:find "/nats%.service" or line:find "/mail%-node%.service" then complaints[#complaints + 1] = line end
  end
  pipe:close()
  t.eq(table.concat(complaints, "\n"), "")
end)

-- The process that has the number 1 in its namespace.
local function first_below(t, pid)
  for child, p in pairs(kit.processes()) do
    if p.ppid == pid then
      local numbers = (t.read(("/proc/%d/status"):format(child)) or ""):match "NSpid:([^\n]+)"
      if numbers and numbers:find "%s1$" then return child end
    end
  end
end

-- The page put a status socket directly into /run, where the unit's user can't make one.
story.test("the sockets of the page about deployment are where the installed unit may make them", function(t)
  local unit = read "../../src/program/moonfork@.service.in"
  local page = read "../../doc/deployment.md"
  local place = unit:match "\nRuntimeDirectory=([^\n]+)"
  t.ok(place, "no RuntimeDirectory")
  local folder_of_shop = "/run/" .. place:gsub("%%i", "shop") .. "/"
  local found = 0
  for path in page:gmatch "[ =](/run/[^%s`]+)" do
    t.eq(path:sub(1, #folder_of_shop), folder_of_shop)
    found = found + 1
  end
  t.eq(found, 3)
end)

story.test("the container: moonfork as process 1", { root = true }, function(t)
  if not os.execute "unshare -p -f --mount-proc true >/dev/null 2>&1" then
    t.skip "no process namespace can be made here"
  end
  local argv = { "unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "env", "-C", folder,
    program.path }
  local command = read "Containerfile":match "\nCMD %[(.-)%]"
  local path, name = t:file "socket", nil
  for word in command:gmatch '"([^"]*)"' do
    if not name then name = word else argv[#argv + 1] = word == ":7000" and path or word end
  end
  t.eq(name, "moonfork")
  local out = t.got(kit.open(t:file "out", "w"))
  local pid = fkit.spawn(argv, { [1] = out, [2] = out })
  kit.close(out)
  local first
  t.outside(15, function()
    first = first_below(t, pid)
    return first and t.read(t:file "out"):find '"ready"'
  end, "it is ready")
  t.eq(ask(t, path), "hello moon")
  local function children(of_state)
    local found = {}
    for child, p in pairs(kit.processes()) do
      if p.ppid == first and (not of_state or p.state == of_state) then found[#found + 1] = child end
    end
    return found
  end
  local before, killed = children(), {}
  for _, child in ipairs(before) do
    if t.read(("/proc/%d/cmdline"):format(child)):find "serve_worker" then
      killed[#killed + 1] = child
      kit.kill(child, kit.SIGKILL)
    end
  end
  t.ok(#killed > 0, "it had workers")
  t.outside(15, function()
    for _, child in ipairs(killed) do
      if kit.processes()[child] then return false end
    end
    return #children "Z" == 0 and #children() >= #before
  end, "what was killed is reaped, and replaced")
  t.eq(ask(t, path), "hello moon")
  kit.kill(first, kit.SIGTERM)
  local ended
  t.outside(15, function()
    local _, how, code = kit.waitpid(pid, true)
    ended = how and { how, code }
    return ended
  end, "it ends")
  t.eq(ended, { "exit", 143 })
end)

story.done()
