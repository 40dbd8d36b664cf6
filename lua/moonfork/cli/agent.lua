-- moonfork agent: the far end of fork.remote. It becomes the program moonfork-remote.

local cli = require "moonfork.cli"

local command = {
  name = "agent",
  summary = "the far end of fork.remote",
  description = [[
Serves templates to a program elsewhere, over standard input and output. A command that is given to
fork.remote, or to --on of `moonfork run` and `moonfork map`, starts it on the other side; nobody types
it. It ends with its standard input, and everything that it has started ends with it.]],
  arguments = {},
  options = {
    {long = "--program", value = "FILE", kind = "file",
     help = "The template program", default = "the installed one"},
  },
  examples = {
    {"moonfork agent", [[over there, in fork.remote{command={"ssh", "host", "moonfork", "agent"}}]]},
  },
}

function command.main(options)
  local remote, template = require("moonfork.load").programs()
  local words = {remote, "agent", options.program or template, package.path, package.cpath}
  local _, message = require("moonfork.clone").exec(remote, words)
  cli.fail(cli.UNUSABLE, "%s can't be executed: %s", remote, message)
end

return command
