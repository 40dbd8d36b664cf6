-- require "moonfork.clone" in a parent: what a program says about the clones of this very
-- interpreter, namely on_fork and before_fork hooks for a later fork.template() or
-- "moonfork.early", and the plain POSIX calls. In a template and its clones the module is
-- built in, and require never comes here.

return require("moonfork.load").of(...).open_clone()
