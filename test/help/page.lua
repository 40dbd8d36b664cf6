-- page: runs what a page of doc/ shows, as its reader would, and compares. Needs no library.
--
--   local page = require "page"
--   page.run(t, "tutorial.md")
--
-- A block after the comment <!-- file: NAME --> is that file. In a block of the language `console`
-- a line that begins with "$ " is a command (a backslash at its end continues it), and the lines
-- after it are what it prints, standard error included; "..." stands for any text within a line,
-- and alone on a line for any lines; a blank for any number of blanks and tabs, at the beginning of a
-- line also for none. All blocks of a page are executed in order, in one shell and
-- one folder. <!-- wait: COMMAND --> waits until the command succeeds, for what a reader is slow
-- enough not to notice. <!-- needs: COMMAND --> leaves out the next block where the command fails. A
-- block of another kind is only there to be read; page.run refuses Lua and C without a name, unless
-- options.loose is true.

local story = require "story"
local kit = story.kit

local page = {}

local source, build = os.getenv "MOONFORK_SOURCE", os.getenv "MOONFORK_BUILD"
local HERE = "END_OF_THE_FILE"
local MARK = "@@MARK@@"

local function read(path)
  local f = assert(io.open(path, "rb"))
  local text = f:read "a"
  f:close()
  return text
end

--- blocks(text): a list of {language, text, line, file, wait, needs} for each fenced block, and
-- {wait} for a comment that stands alone.
function page.blocks(text)
  local list, open, comment, n = {}, nil, {}, 0
  for line in (text .. "\n"):gmatch "(.-)\n" do
    n = n + 1
    local fence = line:match "^```(.*)$"
    if open and fence then
      open.text = table.concat(open, "\n") .. "\n"
      list[#list + 1], open = open, nil
    elseif open then
      open[#open + 1] = line
    elseif fence then
      open = {language = fence, line = n, file = comment.file, needs = comment.needs}
      comment = {}
    else
      local what, value = line:match "^<!%-%- (%l+): (.-) %-%->$"
      if what == "wait" then list[#list + 1] = {wait = value, line = n}
      elseif what then comment[what] = value
      end
    end
  end
  return list
end

-- {command, expected} for each "$ " of a console block.
local function commands_of(block)
  local list, line_of = {}, block.line
  local continued
  for line in block.text:gmatch "(.-)\n" do
    line_of = line_of + 1
    if continued then
      list[#list].command = list[#list].command .. "\n" .. line
      continued = line:find "\\$"
    elseif line:sub(1, 2) == "$ " then
      list[#list + 1] = {command = line:sub(3), expected = {}, line = line_of}
      continued = line:find "\\$"
    else
      local expected = assert(list[#list], "output before a command").expected
      expected[#expected + 1] = line
    end
  end
  return list
end

local function line_pattern(line)
  -- A number may fill its column.
  local pattern = line:gsub("^%s+", ""):gsub("%p", "%%%0"):gsub("%%%.%%%.%%%.", ".*"):gsub("%s+", "%%s+")
  return "^%s*" .. pattern .. "$"
end

-- Whether lines[i..] are what expected[j..] says.
local function agrees(lines, expected, i, j)
  if j > #expected then return i > #lines end
  if expected[j] == "..." then
    for k = i, #lines + 1 do
      if agrees(lines, expected, k, j + 1) then return true end
    end
    return false
  end
  return i <= #lines and lines[i]:find(line_pattern(expected[j])) ~= nil
    and agrees(lines, expected, i + 1, j + 1)
end

local function lines_of(text)
  local lines = {}
  for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line end
  return lines
end

-- Blank lines don't count: a page may have them for the eye.
local function without_blank(list)
  return lines_of(table.concat(list, "\n") .. "\n")
end

-- A TCP port on which nobody listens, outside of those that the system gives away by itself.
local function free_port(fork)
  for i = 0, 99 do
    local port = 10000 + (kit.getpid() * 7 + i) % 20000
    local listener = fork.socket.listen("127.0.0.1:" .. port)
    if listener then
      listener:close()
      return port
    end
  end
  error "no free port"
end

-- The shell's script: files are written, commands run, a mark after each tells which it was.
local function script_of(blocks, options, checks)
  local out = {}
  local function say(...) out[#out + 1] = string.format(...) end
  say "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT"
  say "exec 2>&1"
  for _, block in ipairs(blocks) do
    if block.needs then say("if %s >/dev/null 2>&1; then", block.needs) end
    if block.wait then
      say("n=0; until { %s; } >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt %d ] || "
        .. "{ echo 'waited in vain: %s'; break; }; sleep 0.05; done", block.wait, 300 * story.scale,
        block.wait:gsub("'", "'\\''"))
    elseif block.file then
      local folder = block.file:match "^(.*)/"
      if folder then say("mkdir -p '%s'", folder) end
      say("cat >'%s' <<'%s'\n%s%s", block.file, HERE, block.text, HERE)
    elseif block.language == "console" then
      for _, check in ipairs(commands_of(block)) do
        checks[#checks + 1] = check
        check.needs = block.needs
        say("printf '%s begin %d\\n'; (exit ${status:-0})", MARK, #checks)
        say("%s", check.command)
        say("status=$?; printf '%s end\\n'", MARK)
      end
    elseif (block.language == "lua" or block.language == "c") and not options.loose then
      error(("line %d: a program that no test runs"):format(block.line), 0)
    end
    if block.needs then say "fi" end
  end
  return table.concat(out, "\n") .. "\n"
end

-- Programs under their usual names: the build's moonfork, and the interpreter of this run.
local function programs(t)
  local bin = t:file "bin"
  local preload = os.getenv "STORY_PRELOAD" or ""
  local lua = os.getenv "LUA" or "lua5.4"
  os.execute(("mkdir '%s' && ln -s '%s/src/program/moonfork' '%s/'"):format(bin, build, bin))
  if preload ~= "" or lua ~= "lua5.4" then
    t:file("bin/lua5.4", ("#!/bin/sh\nPATH=${PATH#*:} LD_PRELOAD='%s' exec %s \"$@\"\n"):format(preload, lua))
    os.execute(("chmod +x '%s/lua5.4'"):format(bin))
  end
  return bin
end

-- What pkg-config says of an installed moonfork, for the build.
local function pkg_config(t)
  local function pc(name, folder, requires)
    t:file(name .. ".pc", ("libdir=%s/src/%s\nName: %s\nDescription: the build\nVersion: 0.1.0\n"
      .. "Requires: %s\nCflags: -I%s/include\nLibs: -L${libdir} -l%s\n"):format(build, folder, name,
      requires, source, name))
  end
  pc("moonfork", "parent", "")
  pc("moonfork-template", "template", "moonfork, lua5.4")
  return t:tmp()
end

--- run(t, name, [options]): executes doc/NAME and fails the story where something else is printed.
-- options: loose (see above), port (a number in the page that a free port takes the place of).
function page.run(t, name, options)
  options = options or {}
  local text = read(source .. "/doc/" .. name)
  if options.port then
    text = text:gsub("%f[%d]" .. options.port .. "%f[%D]", tostring(free_port(require "moonfork")))
  end
  local checks = {}
  local script = script_of(page.blocks(text), options, checks)
  if #checks == 0 then t.fail("%s has no commands", name) end
  local folder, bin = t:file "reader", programs(t)
  os.execute(("mkdir '%s'"):format(folder))
  local out = t:file "printed"
  local environment = ("LD_PRELOAD= PATH='%s':\"$PATH\" PKG_CONFIG_PATH='%s' "
    .. "LD_LIBRARY_PATH='%s/src/parent:%s/src/template' NO_COLOR=1"):format(bin, pkg_config(t), build, build)
  os.execute(("cd '%s' && %s timeout -k 5 %d sh '%s' >'%s' 2>&1 </dev/null"):format(folder, environment,
    math.ceil(90 * story.scale), t:file("script", script), out))
  local printed = {}
  for number, lines in read(out):gmatch(MARK .. " begin (%d+)\n(.-)" .. MARK .. " end\n") do
    printed[tonumber(number)] = lines
  end
  local vain = read(out):match "waited in vain: [^\n]*"
  if vain then t.fail("doc/%s: %s\n%s", name, vain, read(out)) end
  local ran = 0
  for i, check in ipairs(checks) do
    if printed[i] then
      ran = ran + 1
      local lines, expected = lines_of(printed[i]), without_blank(check.expected)
      if not agrees(lines, expected, 1, 1) then
        t.fail("doc/%s:%d: $ %s\nprints\n%s\nand the page shows\n%s", name, check.line, check.command,
          table.concat(lines, "\n"), table.concat(expected, "\n"))
      end
    elseif not check.needs then
      t.fail("doc/%s:%d: $ %s\nwas not reached; what was printed:\n%s", name, check.line, check.command,
        read(out))
    end
  end
  if ran == 0 then t.fail("nothing of %s ran:\n%s", name, read(out)) end
end

return page
