-- The Lua blocks of doc/ that are parts of programs: each is put between what its page takes for
-- granted and what shows that it did its work, and executed as a program. Pages that are executed as
-- a whole are in doc_pages.lua, the README in test/check/docs.lua. A block without a row here fails.
-- The programs are processes of their own, so there is no census.
local story = require "story"
local page = require "page"
story.census = false

local source = os.getenv "MOONFORK_SOURCE"
local has_nats = package.searchpath("moonfork.nats_core", package.cpath)

-- The module `app` of most pages, and a program in place of ssh that runs `moonfork ...` here.
local APP = [[
local app = {}
function app.load_tables() app.tables = true end
function app.work(socket, ...) socket:write("work ", ..., "\n") end
function app.parse(line) return (line:upper():gsub("\n", "")) end
function app.handle(connection) connection:write "handled\n" end
return app
]]
local SSH = "#!/bin/sh\nshift 2\nexec \"$MOONFORK_BUILD/src/program/moonfork\" \"$@\"\n"

-- Rows: {text of the block, before =, after =, prints = pattern, files = {name = text},
-- as = a file of that name is the block, and what is executed is `after`}.
local pages = {
  ["lua-api.md"] = {
    {"app.worker:serve", prints = "^hello\n$",
      files = {["app/worker.lua"] = "return {serve = function(s, text) s:write(text, '\\n') end}"}},
    {"NOTIFY_SOCKET", before = [[
      local fork = require "moonfork"
      local name]], prints = "^$"},
    {"clone.on_term", as = "app.lua", prints = "^answered\n$", after = [[
      local fork = require "moonfork"
      local listener = assert(fork.socket.listen "127.0.0.1:0")
      local template = fork.new():eval "function answer(connection) connection:write 'answered\\n' end"
      local clone = template:require "app":fork()
      assert(clone:send_fd(listener):run "serve")
      local connection = assert(fork.socket.connect(listener:address()))
      print(connection:read "l")
      clone:kill "TERM"
      assert(clone:wait().code == 0)]]},
    {"tree = true", prints = "^15\n$", before = [[
      local fork = require "moonfork"
      local template = fork.new():eval "function convert() os.execute 'sleep 600' end"]],
      after = "print(p:wait().signal)"},
  },
  ["rpc.md"] = {
    {"app.thumbs", before = "local files = {'1.png', '22.png'}", prints = "^1\t5\n2\t6\n$",
      files = {["app/thumbs.lua"] = "return {make = function(file, options) return #file, options and 1 end}"}},
    {'rpc.register("point"', before = "local Point = {new = function(x, y) return {x, y} end}", prints = "^$"},
    {"pool:promote", prints = "^$", before = [[
      local pool = require "moonfork".new():eval "function f() end":pool("f", {max = 1})
      local function call(...) end]]},
    {"progress = print", prints = "3\t0\tnil\n12\n$", before = [[
      local file = assert(io.open("log", "w"))
      file:write "1\n22\n333\n"
      file:close()
      local pool = require "moonfork".new():eval "function f(line) return #line * 2 end":pool "f"
      local total = 0]], after = "print(total)"},
  },
  ["images.md"] = {
    {'image = "app.image"', prints = "^work true\n$", after = [[
      template:eval "function f(s) s:write('work ', tostring(require 'app'.tables), '\\n') end"
      print(assert(template:fork():run "f"):read "l")]]},
    {"clone.hibernate", as = "app.lua", prints = "^0\ndone\n$", after = [[
      local fork = require "moonfork"
      local template = fork.new_exec():eval "steps = 0; function step() steps = steps + 1 end":require "app"
      local p = template:fork()
      assert(p:send_arg("1", "150"):run "app:work")
      print(p:wait().code)
      print(assert(fork.load "work.image":run()):read "l")]]},
    {'fork.load "work.image"', prints = "^done\n$", before = [[
      local fork = require "moonfork"
      local p = fork.new_exec():eval(
        "function f() local how, new = require 'moonfork.clone'.hibernate 'work.image'; " ..
        "if how == 'loaded' then new:write 'done\\n' end end"):fork()
      assert(p:run "f")
      p:wait()]], after = "print(socket:read 'l')"},
  },
  ["serve.md"] = {
    {'require "luv"', needs = "luv", prints = "^function\n$", after = "print(type(handle))"},
    {"no such page", prints = "^200\t404\n$", after = "print((app{path = '/'}), (app{path = '/x'}))"},
    {"server.new", prints = "^handled\n$", before = [[
      local fork = require "moonfork"
      local ADDRESS = os.getenv "PWD" .. "/socket" -- a port might be taken
      local copy = fork.new():eval [=[
        local socket = require "moonfork".socket
        function client(s, address, pid)
          local connection
          repeat connection = socket.connect(address) until connection
          print(connection:read "l")
          io.stdout:flush()
          os.execute("kill -TERM " .. pid)
        end]=]
      assert(copy:fork():send_arg(ADDRESS, tostring(require "testkit".getpid())):run "client")]],
      replace = {['"127%.0%.0%.1:7000"'] = "ADDRESS"}},
  },
  ["fork-safety.md"] = {
    {"clone.on_fork", prints = "^a row\n$", before = [[
      local M = {}
      local function connect() return {query = function() return "a row" end} end]],
      after = "print(M.query())", runs = "template"},
    {"mymodule", before = "local fork = require 'moonfork'", prints = "^moonfork%.socket %(",
      files = {["mymodule.lua"] = "return {main = function() end}"}},
  },
  ["lines.md"] = {
    {"lines.map", files = {["access.log"] = "one\ntwo\n"}, prints = "^ONE\nTWO\n$",
      after = "assert(report, err)"},
  },
  ["trace.md"] = {
    {"fork.trace", prints = '^%[', after = "io.write(io.open 'trace.json':read 'a')"},
  },
  ["pseudo.md"] = {{"--> 2  20  nil", prints = "^2\t20\tnil\n$"}},
  ["thread-clones.md"] = {
    {"", prints = "hello from a thread"},
    {"lazy", before = [[local template = require "moonfork".new_exec():eval "function lookup(s) return 'found' end"]],
      prints = "^found\n$", after = "assert(clone:run 'lookup'):close() print((pool:call()))"},
  },
  ["editors.md"] = {{"moonfork.socket", prints = "^$"}},
  ["remote.md"] = {
    {'run "app:work"', prints = "^work hello\n$", after = "print(socket:read 'l')"},
    {"pool:add", before = "local fork = require 'moonfork'", prints = "^X\n$",
      after = "print((assert(pool 'x')))"},
    {"rebuild", before = "local fork = require 'moonfork'", prints = "^work hello\n$",
      after = "print(assert(far:fork():send_arg 'hello':run 'app:work'):read 'l')"},
  },
  ["nats.md"] = {
    {"node:drain", nats = "run", files = {["resize.lua"] = "return {run = function(...) return ... end}"},
      replace = {["while true do fork%.sleep%(3600%) end"] = "print 'a node'"}, prints = "^a node\n$"},
    {"resize:map", nats = "run", prints = "^a b\n1\tx\n$", before = [[
      local bytes, images = "a", {"x"}
      local function keep(i, small, err) print(i, small or err) end
      do
        local pool = require "moonfork".new():eval "function f(a, b) return b and a .. ' b' or a end":pool "f"
        NODE = assert(require "moonfork.nats".node(pool, URL, {subject = "images.resize"}))
      end]], replace = {["local image = assert%b()"] = "%0\nprint(image)"}},
  },
  ["nats-jobs.md"] = {
    {"jobs = \"MAIL\"", nats = "run", prints = "^you@example%.org Hello\n$", before = [[
      local pool = require "moonfork".new():eval "function f(to, text) return to .. ' ' .. text end":pool "f"]]},
  },
}
pages["migration.md"], pages["troubleshooting.md"], pages["tutorial.md"] = "whole", "whole", "whole"

local function put(folder, name, text)
  local path = folder .. "/" .. name
  os.execute(("mkdir -p '%s'"):format(path:match "^(.*)/"))
  local f = assert(io.open(path, "w"))
  assert(f:write(text))
  f:close()
  return path
end

local function run(t, row, block)
  local folder = t:tmp()
  local code = block.text
  for pattern, text in pairs(row.replace or {}) do
    local n
    code, n = code:gsub(pattern, text)
    t.ok(n > 0, "the block has " .. pattern)
  end
  local server = row.nats and require "nats".start(t, {jetstream = true})
  if server then code = code:gsub('"nats://[^"]*"', "URL") end
  if not row.as and not (row.files or {})["app/worker.lua"] then put(folder, "app.lua", APP) end
  if row.as then put(folder, row.as, code) end
  for name, text in pairs(row.files or {}) do put(folder, name, text) end
  put(folder, "bin/ssh", SSH)
  local program = table.concat({server and ("local URL = %q"):format(server.url) or "", row.before or "",
    row.as and "" or code, row.after or ""}, "\n"):gsub("^\n+", "")
  if row.runs == "template" then -- code that belongs there
    put(folder, "code.lua", program)
    program = 'local p = require "moonfork".new():eval(io.open "code.lua":read "a"); assert(p:memory())'
  end
  put(folder, "program.lua", program)
  local pipe = assert(io.popen(("cd '%s' && chmod +x bin/ssh && " ..
    "PATH=\"$PWD/bin:$PATH\" LUA_PATH=\"./?.lua;$LUA_PATH\" " ..
    "timeout %d lua5.4 program.lua 2>&1"):format(folder, 30 * story.scale)))
  local text = pipe:read "a"
  local ok, how, code_of_it = pipe:close()
  if not ok then t.fail("%s %d: %s\n%s", how, code_of_it, text, program) end
  t.match(text, row.prints)
end

local function read(path)
  local f = assert(io.open(path))
  local text = f:read "a"
  f:close()
  return text
end

local pipe = assert(io.popen(("cd '%s/doc' && ls *.md decisions/*.md"):format(source)))
for name in pipe:lines() do
  local rows = pages[name]
  if rows ~= "whole" then
    local n = 0
    for _, block in ipairs(page.blocks(read(source .. "/doc/" .. name))) do
      if block.language == "lua" then
        n = n + 1
        local row = rows and rows[n]
        story.test(("%s, line %d"):format(name, block.line), {
          deadline = 60,
          needs = row and row.needs,
          skip = row and row.nats and not has_nats and "built without NATS" or nil,
        }, function(t)
          t.ok(row, "a block of Lua has a row in doc_examples.lua")
          t.ok(block.text:find(row[1], 1, true), "the row is that of the block")
          run(t, row, block)
        end)
      end
    end
    if rows and n ~= #rows then
      story.test(name .. " has a block for each row", function(t) t.eq(n, #rows) end)
    end
  end
end
pipe:close()
story.done()
