-- require "moonfork.rpc" in a parent: the functions of a process that serves an rpc, for
-- modules that a later fork.template() copies. In a template and its clones the module is
-- built in, and require never comes here.

return require("moonfork.load").of(...).open_rpc()
