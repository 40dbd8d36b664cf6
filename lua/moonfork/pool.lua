-- require "moonfork.pool" in a parent: what workers call, for modules that a later
-- fork.template() copies. In a template and its clones the module is built in.

return require("moonfork.load").of(...).open_pool()
