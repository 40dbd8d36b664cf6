-- moonfork map: a call for each line of the input, a line of the output for each answer.

local cli = require "moonfork.cli"
local template = require "moonfork.cli.template"

local command = {
  name = "map",
  summary = "call a function for each line of input, in parallel",
  description = [[
Calls FUNCTION with each line of the files, or of standard input, in the processes of a pool. Each
result is a line of the output, in the order of the input; several values are separated by tabs. Lines
travel in chunks whose size follows the time that calls take. If a call raises an error, the line is
reported on standard error with its number, and the run ends, unless --keep-going or --max-failures
say otherwise. After Ctrl-C or SIGTERM no more lines are read, and those under way are finished; a
second one ends them at once.]],
  arguments = {
    template.argument,
    {name = "FILE", help = "Input; '-' and none at all mean standard input", many = true, file = true},
  },
  options = {
    {short = "-j", long = "--jobs", value = "N", kind = "count", default = "the processors",
     library = "workers", help = "Worker processes"},
    template.options[1],
    template.options[2],
    template.image,
    template.on,
    {long = "--unordered", help = "Write answers as they come"},
    {long = "--chunk", value = "N", kind = "count", help = "Lines that travel together",
     default = "as many as take some milliseconds"},
    {short = "-k", long = "--keep-going", help = "Go on after lines that fail; exit with 1 at the end"},
    {long = "--max-failures", value = "N", kind = "count", help = "End after so many failing lines"},
    {long = "--retry", value = "N", kind = "number", default = "0",
     help = "Repeat a line that raised, was killed or timed out, at most N times more"},
    {long = "--timeout", value = "S", kind = "seconds",
     help = "Seconds that one call may take; then its worker is killed and replaced"},
    {long = "--json", help = "Each line of input and output is one JSON value (needs cjson)"},
    {short = "-0", long = "--null", help = "Lines end in NUL bytes, in input and output"},
    {long = "--tag", help = "Begin each line of output with its line of input and a tab"},
    {long = "--joblog", value = "FILE", kind = "file",
     help = "Record each call: line, start, duration, worker, status"},
    {long = "--resume", value = "FILE", kind = "file",
     help = "Continue the run that wrote this job log: repeat nothing that it records as done"},
    {long = "--progress", help = "Show progress on standard error", default = "on a terminal"},
    {long = "--status", value = "ADDRESS",
     help = "Answer HTTP there, for `moonfork top`: /status is JSON, /metrics is Prometheus text"},
    {long = "--trace", value = "FILE", kind = "file",
     help = "Write a timeline for Perfetto (ui.perfetto.dev)"},
  },
  notes = {
    {"Job log", [[
A text with a head line and a line for each call, columns separated by tabs: the number of the
line, the start (seconds since 1970), the duration in seconds, the worker's process id, the status
(ok, error, died, timeout), a hash of the line, and the error. A line is recorded after its answer
has been written. With --resume and without --joblog the same file is continued. A file that has
anything else in it is refused, and not changed.]]},
    {"Programs that a function starts", [[
They belong to its worker and are killed when that ends, also by a time limit or an interrupt. One
that is to live on is started by setsid(1).]]},
  },
  examples = {
    {"moonfork map -l app app:parse access.log >parsed.txt", "the function parse of the module app"},
    {[[seq 1000 | moonfork map -e 'function square(x) return x * x end' square]],
     "a function given in place"},
    {"moonfork map --keep-going --joblog log -l app app:fetch urls.txt\n"
      .. "moonfork map --keep-going --resume log -l app app:fetch urls.txt",
     "an interrupted run, and its continuation"},
  },
}

local function fail(err)
  if err.code == "EINVAL" or err.code == "REMOTE" or err.code == "TEMPLATE_START" then template.unusable(err) end
  cli.fail(cli.FAILED, "%s", template.first_line(err))
end

function command.main(options)
  local output = require "moonfork.cli.output"
  local interrupt = require "moonfork.cli.interrupt"
  local terminal = require "moonfork.cli.terminal"
  local fork = require "moonfork"
  local lines = require "moonfork.lines"
  if options.trace then template.trace(options.trace) end
  local progress
  if options.progress or terminal.is_terminal(2) then
    progress = require("moonfork.cli.progress").new()
  end
  local files = #options.file > 0 and options.file or nil
  local processes, run = {}, nil
  local function kill_templates() -- that are still loading
    for _, process in ipairs(processes) do process:kill "KILL" end
  end
  interrupt.watch(function()
    if run then run:stop() else kill_templates() end
  end, function()
    if run then run:kill() else kill_templates() end
  end)
  processes = template.make_all(options) -- after that: Ctrl-C may come as soon as a command runs
  for _, process in ipairs(processes) do
    local loaded, err = template.wait_loaded(process)
    if interrupt.code then return interrupt.code end
    if not loaded then
      if err.code == "CLONE_DIED" then template.unusable(err) end
      fail(err)
    end
  end

  local function told(number, failure)
    local text = ("moonfork map: line %d: %s\n"):format(number, template.first_line(failure))
    if progress then progress:hide() end
    io.stderr:write(cli.printable(text))
  end
  local function idle()
    if progress then progress:hide(output.pending()) end
    output.flush()
  end
  local err
  run, err = lines.map(table.remove(processes, 1), options["function"], {
    others = processes, files = files,
    workers = options.jobs or (options.on and fork.ncpu() * (#processes + 1)),
    chunk = options.chunk, unordered = options.unordered,
    keep_going = options.keep_going, max_failures = options.max_failures, retry = options.retry,
    timeout = options.timeout, json = options.json, null = options.null, tag = options.tag,
    joblog = options.joblog, resume = options.resume, write = output.write, idle = idle,
    on_failure = told,
  })
  if not run then fail(err) end
  cli.defer(function() run.pool:drain(0) end)
  local status
  if options.status then
    status, err = require("moonfork.status").start(run.pool, options.status)
    if not status then cli.fail_at({options.status}, cli.UNUSABLE, err) end
    cli.defer(function() status:close() end)
  end
  if progress then progress:start(function() return run:state() end) end
  local report
  report, err = run:wait()
  if progress then progress:finish() end
  if not report then cli.fail(err.code == "REMOTE" and cli.UNUSABLE or cli.FAILED, "%s", template.first_line(err)) end
  if interrupt.code then return interrupt.code end
  return report.failed > 0 and cli.FAILED or cli.OK
end

return command
