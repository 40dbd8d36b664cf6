-- pseudo.lua: programs that require "moonfork.pseudo", run by the stock interpreter from a file.
--
--   local out, err, code = pseudo.run(t, [[print(pseudo.getpid())]])
--
-- The text follows a first line that requires the module as `pseudo`, and some helpers.

local pseudo = {}
local lua = os.getenv "MOONFORK_PSEUDO_LUA" or os.getenv "LUA" or "lua5.4" -- the first: under a sanitizer
local story = require "story"

pseudo.FIRST = 'local pseudo = require "moonfork.pseudo" '
local HELPERS = [[
  local fork, wait, waitpid = pseudo.fork, pseudo.wait, pseudo.waitpid
  local function child(f, ...)
    local pid = assert(fork())
    if pid == 0 then f(...) os.exit(0) end
    return pid
  end
  local function ended(pid) local p, code, signal = waitpid(pid) assert(p == pid) return code, signal end
]]

--- run(t, text, [options]): standard output, standard error, exit code. options: arguments (words of
-- a shell), stdin (the path of its input), lua (the interpreter with options), bare (no script), whole (the
-- text is all).
function pseudo.run(t, text, options)
  options = options or {}
  local script = t:file("program.lua", options.whole and text or
    pseudo.FIRST .. HELPERS:gsub("%s*\n%s*", " ") .. "\n" .. text)
  local out, err = t:file("out", ""), t:file("err", "")
  local _, how, code = os.execute(("timeout -k 2 %d %s %s %s <'%s' >'%s' 2>'%s'"):format(
    math.ceil(30 * story.scale), options.lua or lua, options.bare and "" or "'" .. script .. "'",
    options.arguments or "", options.stdin or "/dev/null", out, err))
  return t.read(out), t.read(err), how == "signal" and 128 + code or code
end

--- ok(t, text, expected): the program prints that, and nothing to standard error, and exits with 0.
function pseudo.ok(t, text, expected, options)
  local out, err, code = pseudo.run(t, text, options)
  t.eq(err, "", "standard error")
  t.eq(out, expected or "", "standard output")
  t.eq(code, 0, "exit code")
end

return pseudo
