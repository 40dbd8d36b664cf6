-- moonfork call: one call of a function that nodes of a NATS subject have.

local cli = require "moonfork.cli"
local engine = require "moonfork.cli.engine"
local template = require "moonfork.cli.template"

local command = {
  name = "call",
  summary = "call the function of the nodes of a NATS subject",
  description = [[
Calls the function of one of the nodes (`moonfork node`) with the arguments, which are strings, and
prints the result as a line: several values are separated by tabs, a table is an error. If no node has
room, the call waits.]],
  arguments = {
    {name = "ARG", help = "An argument of the function, a string; after -- also one that begins with -", many = true},
  },
  options = {
    engine.url,
    engine.subject,
    {long = "--timeout", value = "S", kind = "seconds", default = "60", help = "Seconds until there is an answer"},
    {long = "--idempotent", help = "The call may run again if its worker or node dies"},
    table.unpack(engine.access),
  },
  notes = {engine.note},
  examples = {
    {"moonfork call --engine local --subject thumbs in.png", "a call of the node beside it"},
    {"moonfork call --engine nats://nats.example --timeout 5 --subject sum 1 2", "with a time limit"},
  },
}

local TIMEOUT = 60

function command.main(options)
  engine.check(options, "call")
  local nats = engine.load()
  local fork = require "moonfork"
  local interrupt = require "moonfork.cli.interrupt"
  local output = require "moonfork.cli.output"
  local url, access = engine.open(fork, options)
  access.timeout = options.timeout or TIMEOUT
  local pool, err = nats.pool(url, access)
  if not pool then cli.fail(cli.FAILED, "%s", template.first_line(err)) end
  cli.defer(function() pool:close() end)
  local results
  local arguments = options.arg
  arguments[#arguments + 1] = function(...) results = table.pack(...) end
  local call = options.idempotent and pool:with{idempotent = true}:call(table.unpack(arguments))
    or pool:call(table.unpack(arguments))
  interrupt.watch(function() call:cancel() end, function() cli.quit(interrupt.code) end)
  while not results do fork.step(10) end
  err = results[1]
  if interrupt.code then return interrupt.code end
  if err then
    cli.fail(cli.FAILED, "%s%s", template.first_line(err), err.traceback and "\n" .. err.traceback or "")
  end
  local ok, line = pcall(require "moonfork.joined", table.unpack(results, 2, results.n))
  if not ok then cli.fail(cli.FAILED, "%s", line) end
  output.write(line .. "\n")
  output.flush()
  return cli.OK
end

return command
