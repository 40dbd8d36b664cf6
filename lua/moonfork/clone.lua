-- require "moonfork.clone" in a parent. What a program says about the clones of this very interpreter: on_fork and before_fork
-- hooks for a later fork.template() or "moonfork.early", and the plain POSIX calls. In a
-- template and its clones `require "moonfork.clone"` is built in and never comes here.

return require("moonfork.core").open_clone()
