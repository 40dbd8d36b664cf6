-- What the template program does before its first fork, so that forks copy less: the libraries'
-- variables and what malloc gave so far move to a file in memory. Nobody may notice: whatever
-- libc knew it knows still, who writes writes for himself alone, and only the kernel's list of
-- mappings tells that forks no longer copy any of it; and what of a library nobody writes to is
-- one mapping, where it was three.
local story = require "story"
local fork = require "moonfork"

local function is_lean() -- this build's template program does it
  local f = assert(io.open(os.getenv "MOONFORK_TEMPLATE", "rb"))
  local program = f:read "a"
  f:close()
  return program:find("moonfork-data", 1, true) ~= nil
end

-- KiB of pages that somebody wrote, of the mappings whose line matches the pattern.
local function written(pid, pattern)
  local f = io.open(("/proc/%d/smaps"):format(pid))
  if not f then return nil end
  local sum, found, counts = 0, 0, false
  for line in f:lines() do
    if line:find "^%x+%-%x+ " then
      counts = line:find(pattern) ~= nil
      found = found + (counts and 1 or 0)
    elseif counts then
      sum = sum + (tonumber(line:match "^Anonymous:%s+(%d+)") or 0)
    end
  end
  f:close()
  return sum, found
end

local function call(p, name, text)
  if text then p:send_arg(text) end
  local s = assert(p:run(name))
  local answer = s:read "a"
  s:close()
  return answer
end

story.test("forks copy nothing of the libraries", function(t)
  if not is_lean() then t.skip "a template program that leaves data where they are" end
  local template = fork.new_exec():eval "function nothing() end"
  call(template:fork(), "nothing")
  local pid = template:pid()
  local copied, moved = written(pid, "moonfork%-data")
  if not copied then t.skip "no /proc/PID/smaps" end
  t.ok(moved > 0, "something has moved")
  t.eq((written(pid, "/libc[.-]")), 0, "of libc")
  t.eq((written(pid, "/libm[.-]")), 0, "of libm")
  t.eq((written(pid, "/ld%-")), 0, "of the dynamic linker")
  for _ = 1, 20 do call(template:fork(), "nothing") end
  t.ok(written(pid, "moonfork%-data") <= copied + 8, "births write next to none of it")
  template:close()
end)

story.test("the code and constants of a library are one mapping", function(t)
  if not is_lean() then t.skip "a template program that leaves mappings as they are" end
  local template = fork.new_exec():eval "function nothing() end"
  local pid = assert(template:memory()) and template:pid()
  local _, before = written(pid, "/libc[.-]")
  if not before then t.skip "no /proc/PID/smaps" end
  t.ok(before >= 1, "libc is loaded")
  call(template:fork(), "nothing")
  for _, library in ipairs {"/libc[.-]", "/libm[.-]", "/ld%-"} do
    local _, n = written(pid, library)
    t.eq(n, 1, library)
  end
  t.eq(call(template:eval [[function quote(s) s:write(("%q"):format(math.pi)) end]]:fork(), "quote"),
       ("%q"):format(math.pi), "libraries work as before")
  template:close()
end)

story.test("a title is as long as it has to be, and the environment stays", function(t)
  if not is_lean() then t.skip "a template program whose title lies in its arguments" end
  local template = fork.new_exec {env = {MOON = "full"}}:eval [[
    local clone = require "moonfork.clone"
    function paint(s)
      clone.title(("moon "):rep(50))
      local f = io.open("/proc/self/cmdline", "rb")
      local long = f:read("a"):gsub("%z+$", "")
      f:close()
      clone.title "new"
      f = io.open("/proc/self/cmdline", "rb")
      local short = f:read("a"):gsub("%z+$", "")
      f:close()
      s:write(long, "\n", short, "\n", os.getenv "MOON", "\n")
      s:read(1)
    end
  ]]
  local p = template:fork()
  local s = assert(p:run "paint")
  t.eq(s:read "l", ("moon "):rep(50))
  t.eq(s:read "l", "new")
  t.eq(s:read "l", "full")
  s:write "x"
  s:close()
  t.eq(p:wait().code, 0)
  template:close()
end)

story.test("the program's variables are one mapping with what was zero at first", function(t)
  if not is_lean() then t.skip "a template program that leaves mappings as they are" end
  local template = fork.new_exec():eval "function nothing() end"
  call(template:fork(), "nothing")
  local _, n = written(template:pid(), "rw%-p .*moonfork%-template")
  if not n then t.skip "no /proc/PID/smaps" end
  t.eq(n, 0, "nothing of the file is mapped to be written")
  template:close()
end)

-- Where the program's tables that are read-only after relocation begin, and whether they were
-- linked into the 2 MiB that its code begins in.
local function tables_of_program()
  local f = assert(io.open(os.getenv "MOONFORK_TEMPLATE", "rb"))
  local head = f:read(4096)
  f:close()
  local is_fixed = ("<I2"):unpack(head, 17) == 2
  local at, _, _, _, size, n = ("<I8I8I4I2I2I2"):unpack(head, 33)
  local code, tables
  for i = 0, n - 1 do
    local kind, flags, _, address = ("<I4I4I8I8"):unpack(head, at + i * size + 1)
    if kind == 1 and flags & 1 == 1 then code = address end
    if kind == 0x6474e552 then tables = address end
  end
  return tables, is_fixed and tables and code and tables >> 21 == code >> 21
end

story.test("the program's tables lie in the huge page of its code", function(t)
  if not is_lean() then t.skip "a template program that leaves mappings as they are" end
  local tables, is_beside = tables_of_program()
  if not is_beside then t.skip "linked elsewhere" end
  local template = fork.new_exec():eval "function nothing() end"
  call(template:fork(), "nothing")
  local f = io.open(("/proc/%d/maps"):format(template:pid()))
  if not f then t.skip "no /proc/PID/maps" end
  local text = f:read "a"
  f:close()
  if not text:find "moonfork%-text" then t.skip "no huge page for the code" end
  local found = false
  for from, to, rest in text:gmatch "(%x+)%-(%x+) ([^\n]*)" do
    from, to = tonumber(from, 16), tonumber(to, 16)
    if from <= tables and tables < to then
      t.ok(rest:find "^r%-xp .*moonfork%-text", rest)
      t.eq(to - from, 2 << 20)
      found = true
    end
  end
  t.ok(found, "they are mapped")
  template:close()
end)

-- A function that has returned without a call of C's flushes nothing: that was done before.
story.test("what the template wrote is there once, whatever its clones did", function(t)
  local name = os.tmpname()
  local template = fork.new_exec():eval(([[
    file = io.open(%q, "w")
    file:setvbuf("full", 4096)
    function nothing() end
    function more(s) file:write "more" end
    function write() file:write "once " end
  ]]):format(name))
  local function text()
    local f = io.open(name)
    local all = f:read "a"
    f:close()
    return all
  end
  for i = 1, 3 do
    template:eval "write()"
    local p = template:fork()
    call(p, "nothing")
    t.eq(p:wait().code, 0)
    t.eq(text(), ("once "):rep(i))
  end
  local p = template:fork()
  call(p, "more")
  t.eq(p:wait().code, 0)
  t.eq(text(), ("once "):rep(3) .. "more", "a clone's own")
  template:close()
  os.remove(name)
end)

-- Streams are libc's own records, and lie in malloc's memory. The locale and the environment
-- are in variables of libc's.
local KEEPS = [[
  local name = os.tmpname()
  written, reader = io.open(name, "w"), io.open(name, "r")
  written:setvbuf("full", 4096)
  written:write "of the template, "
  os.setlocale("C", "numeric")
  function tells(s, text)
    written:write(text)
    written:flush()
    s:write(reader:read "a", " ", os.setlocale(nil, "numeric"), " ", type(os.getenv "PATH"))
  end
  function allocates(s)
    local kept, first = {}, {}
    for i = 1, 200 do kept[i] = io.tmpfile() first[i] = tostring(kept[i]) end
    for i = 1, 200 do kept[i]:write(i) end
    for i = 1, 200 do kept[i]:seek "set" assert(kept[i]:read "n" == i) end
    s:write "ok"
  end
  function removes() os.remove(name) end
]]

story.test("what libc knew before the first fork it knows after it", function(t)
  local template = fork.new_exec():eval(KEEPS)
  t.eq(call(template:fork(), "tells", "one"), "of the template, one C string")
  template:eval "written:write ' and once more, '"
  t.eq(call(template:fork(), "tells", "two"), " and once more, two C string")
  for _ = 1, 3 do t.eq(call(template:fork(), "allocates"), "ok") end
  template:eval [[
    for i = 1, 100 do local f = io.tmpfile() f:write(("x"):rep(10000)) f:close() end
  ]]
  t.eq(call(template:fork():fork(), "allocates"), "ok", "in a clone's clone")
  t.eq(call(template:fork(), "allocates"), "ok")
  call(template:fork(), "removes")
  template:close()
end)

-- A global function is looked up raw, without anything of what surrounds user code; every other
-- name is looked up by Lua's rules.
story.test("a name that only Lua's rules find is found", function(t)
  local template = fork.new_exec():eval [[
    function plain(s) s:write "plain" end
    callable = setmetatable({}, {__call = function(_, s) s:write "callable" end})
    inner = {f = function(s) s:write "inner" end}
    setmetatable(_G, {__index = function(_, name)
      return function(s) s:write("made for ", name) end
    end})
  ]]
  for name, answer in pairs {plain = "plain", callable = "callable", ["inner.f"] = "inner",
                             other = "made for other"} do
    t.eq(call(template:fork(), name), answer)
    local p = template:fork()
    t.ok(p:memory()) -- it has been born before it is told to run
    t.eq(call(p, name), answer)
  end
  template:close()
end)

story.done()
