-- moonfork run: a template, some clones of it, and what they write to their sockets.

local cli = require "moonfork.cli"
local template = require "moonfork.cli.template"

local run = {
  name = "run",
  summary = "run a function in clones of a template",
  description = [[
Loads the modules in a template, forks clones of it, and runs FUNCTION in each, as
f(socket, ARG...). Lines that a clone writes to its socket go to standard output; what it prints goes
there directly. A clone that reads its socket gets the end of the file at once. The exit code is the
highest one of all clones; for a clone that was killed it is 128 and the number of the signal. Ctrl-C
and SIGTERM end the clones by SIGTERM; a second one ends them by SIGKILL.]],
  arguments = {
    {name = "FUNCTION", optional = true,
     help = template.argument.help .. ". Without it, the function that clone.hibernate has suspended in the image of "
       .. "--image goes on"},
    {name = "ARG", help = "An argument of the function, a string", rest = true},
  },
  options = {
    template.options[1],
    template.options[2],
    template.image,
    template.on,
    {short = "-n", long = "--count", value = "N", kind = "count", default = "1",
     help = "Run it in N clones at the same time"},
    {long = "--trace", value = "FILE", kind = "file",
     help = "Write a timeline for Perfetto (ui.perfetto.dev)"},
  },
  notes = {
    {"Programs that a function starts", [[
They belong to its clone and are killed when that ends, also by an interrupt. One that is to live on
is started by setsid(1).]]},
  },
  examples = {
    {[[moonfork run -e 'function hi(socket, name) socket:write("hi ", name, "\n") end' hi you]],
     "one clone, one argument"},
    {[[moonfork run -n 4 -l app app:work]], "the function work of the module app, four times"},
    {"moonfork run --image work.image", "go on with what clone.hibernate has written"},
  },
}

local LINE_MAX = 65536 -- a longer one goes out in pieces

-- Copies whole lines that are there to standard output; false at the end.
local function copy(socket, output)
  while true do
    local line, message, errno = socket:read "L"
    if not line and message == "line too long" then
      line = socket:read(LINE_MAX)
    end
    if line then
      output.write(line)
    else
      return errno ~= nil and message == "timed out"
    end
  end
end

-- What the first clone meets where the modules or the template can't be used.
-- EINVAL, UNSUPPORTED: of its image.
local NOT_LOADED = {REMOTE = true, TEMPLATE_START = true, TEMPLATE_DIED = true, EINVAL = true, UNSUPPORTED = true}

local function worst(a, b)
  return a > b and a or b
end

local function code_of(status)
  if status.unknown then return 1 end
  return status.signal and 128 + status.signal or status.code
end

function run.main(options)
  if not options["function"] and not options.image then
    cli.fail(cli.USAGE,
      "missing argument 'FUNCTION' (only with --image there may be one to go on with); see moonfork run --help")
  end
  local fork = require "moonfork"
  local output = require "moonfork.cli.output"
  local interrupt = require "moonfork.cli.interrupt"
  if options.trace then template.trace(options.trace) end
  local processes, clones, draining = {}, {}, false
  local is_loaded = {} -- process -> true: a clone of it has run
  -- A template that is still loading would keep the program.
  local function signal(name)
    for _, process in ipairs(processes) do
      if not is_loaded[process] then process:kill "KILL" end
    end
    for _, clone in ipairs(clones) do clone.process:kill(name) end
  end
  interrupt.watch(function() draining = true; signal "TERM" end, function() signal "KILL" end)
  processes = template.make_all(options) -- after that: Ctrl-C may come as soon as a command runs
  cli.defer(function()
    for _, clone in ipairs(clones) do
      if clone.process:kill "KILL" then clone.process:wait() end
    end
  end)

  local sockets, code = {}, cli.OK
  for i = 1, options.count or 1 do
    if draining then break end
    local process = processes[(i - 1) % #processes + 1]
    local clone = process:fork()
    if #options.arg > 0 then clone:send_arg(table.unpack(options.arg)) end
    local socket, err = clone:run(options["function"])
    if socket then
      is_loaded[process] = true
      socket:shutdown "w" -- there is nothing to read for the function
      socket:settimeout(0)
      socket:limit(LINE_MAX)
      sockets[#sockets + 1] = socket
      clones[#clones + 1] = {process = clone}
    elseif not draining then
      if #clones == 0 and err.started == "no" and NOT_LOADED[err.code] then template.unusable(err) end
      io.stderr:write("moonfork run: ", (cli.explain(template.first_line(err))), "\n")
      code = cli.FAILED
      break
    end
  end

  while #sockets > 0 do
    for _, socket in ipairs(fork.socket.poll(sockets)) do
      if not copy(socket, output) then
        socket:close()
        for i, other in ipairs(sockets) do
          if other == socket then table.remove(sockets, i) break end
        end
      end
    end
    output.flush()
  end
  for i, clone in ipairs(clones) do
    local status = clone.process:wait()
    if status and status.unknown and not draining then
      io.stderr:write(("moonfork run: clone %d: how it ended is not known%s\n"):format(i,
        #(options.on or {}) > 0 and ": the connection to its machine is lost, or its machine can't tell" or ""))
    end
    code = worst(code, status and code_of(status) or cli.FAILED)
  end
  return interrupt.code or code
end

return run
