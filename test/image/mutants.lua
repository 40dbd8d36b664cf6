-- mutants.lua: leaves out one statement of src/image/walk54.h after the other, compiles the
-- programs that are moved (hop.c) with what is left, and sees that one of them fails. A
-- statement that may be left out unnoticed stands in EXPLAINED with the reason; nothing else
-- does, and nothing there is noticed.
--
--   lua5.4 test/image/mutants.lua [--quick | --list | NUMBER...]
--
-- --quick: a few of them. Needs a C compiler ($CC, gcc) and Lua for pkg-config. The last line
-- counts; takes some minutes.

local WALK = "src/image/walk54.h"
local QUICK = {["inside &t->last_free"] = true, ["perhaps &e->key"] = true, ["inside &g->sweep"] = true}
local SEEDS = {1, 2, 3}

local IN_ONE_PROCESS = "leads outside, where a move within one process changes nothing"
local WITHIN_A_STEP = "used within one step of the collector, which is never left; written anew by the next"
local EXPLAINED = {
  ["outside word, IMAGE_C_FUNCTION"] = IN_ONE_PROCESS,
  ["outside &t->entries, IMAGE_DUMMY_NODE"] = IN_ONE_PROCESS,
  ["outside &f->function, IMAGE_C_CLOSURE"] = IN_ONE_PROCESS,
  ["outside &f->as.c.continuation, IMAGE_CONTINUATION"] = IN_ONE_PROCESS,
  ["outside &f->as.c.context, IMAGE_CONTEXT"] = "the programs' contexts are numbers",
  ["outside &t->jump, IMAGE_JUMP"] = "NULL whenever a state may be moved",
  ["outside &t->hook, IMAGE_HOOK"] = IN_ONE_PROCESS,
  ["outside &g->allocate, IMAGE_ALLOCATOR"] = IN_ONE_PROCESS,
  ["outside &g->allocate_data, IMAGE_ALLOCATOR_DATA"] = IN_ONE_PROCESS,
  ["outside &g->panic, IMAGE_PANIC"] = IN_ONE_PROCESS,
  ["outside &g->warn, IMAGE_WARN"] = IN_ONE_PROCESS,
  ["inside &g->weak"] = WITHIN_A_STEP,
  ["inside &g->ephemeron"] = WITHIN_A_STEP,
  ["inside &g->all_weak"] = WITHIN_A_STEP,
}

local function read(path)
  local f = assert(io.open(path))
  local text = f:read "a"
  f:close()
  return text
end

local function run(command)
  return (os.execute(command))
end

-- Every statement that shows a pointer to the visitor, or goes on into what has some.
local function statements(text)
  local list, line_at = {}, {}
  local line = 1
  for at in text:gmatch "()\n" do line_at[#line_at + 1] = at end
  local function line_of(at)
    while line_at[line] and line_at[line] < at do line = line + 1 end
    return line
  end
  for from, what, name, to in text:gmatch "()(%f[%w_]v%->(%w+)%b()%;)()" do
    if name == "inside" or name == "perhaps" or name == "outside" then
      list[#list + 1] = {from = from, to = to, text = what}
    end
  end
  for from, what, to in text:gmatch "()(%f[%w_]walk_%w+%b()%;)()" do
    list[#list + 1] = {from = from, to = to, text = what}
  end
  table.sort(list, function(a, b) return a.from < b.from end)
  line = 1
  for i, s in ipairs(list) do
    s.line, s.number = line_of(s.from), i
    s.key = s.text:gsub("%s+", " "):gsub("^v%->(%w+)%(c, ", "%1 "):gsub("^(walk_%w+)%(v, c, ", "%1 ")
      :gsub("%)?%)%;$", "")
  end
  return list
end

local here = assert(io.popen "mktemp -d"):read "l"
local CC = os.getenv "CC" or "gcc"
local FLAGS = "-O1 -g -w -D_GNU_SOURCE $(pkg-config --cflags lua5.4)"
local LIBS = "$(pkg-config --libs lua5.4) -lpthread"

local function compile(folder, name, path)
  return run(("%s %s -I%s -Isrc -Itest -Itest/image -c %s -o %s/%s.o"):format(CC, FLAGS, folder, path, folder, name))
end

local function build(folder, text)
  assert(run(("mkdir -p %s/image"):format(folder)))
  local f = assert(io.open(folder .. "/image/walk54.h", "w"))
  f:write(text)
  f:close()
  for _, name in ipairs {"relocate", "pointers", "compare"} do
    assert(compile(folder, name, ("src/image/%s.c"):format(name)), "it does not compile")
  end
  assert(run(("%s -o %s/hop %s/*.o %s/same/*.o %s"):format(CC, folder, folder, here, LIBS)))
end

-- What noticed it: a program and a seed, or nil.
local function noticed_by(folder, programs)
  for _, seed in ipairs(SEEDS) do
    for _, program in ipairs(programs) do
      local command = ("timeout 60 %s/hop --seed %d %s >/dev/null 2>&1"):format(folder, seed, program)
      if not run(command) then return program:match "([%w_]+)%.lua$" .. ", seed " .. seed end
    end
  end
end

local function programs()
  local list = {}
  local pipe = assert(io.popen "ls test/image/programs/*.lua")
  for path in pipe:lines() do list[#list + 1] = path end
  pipe:close()
  assert(#list > 0, "there are no programs")
  return list
end

local text = read(WALK)
local list = statements(text)
local wanted, listing, quick = {}, false, false
for _, word in ipairs(arg) do
  if word == "--list" then listing = true
  elseif word == "--quick" then
    for _, s in ipairs(list) do if QUICK[s.key] then wanted[s.number] = true end end
    quick = true
  else wanted[assert(tonumber(word), "usage: mutants.lua [--quick | --list | NUMBER...]")] = true end
end
if listing then
  for _, s in ipairs(list) do print(s.number, s.line, s.key, EXPLAINED[s.key]) end
  os.execute("rmdir " .. here)
  return
end

assert(run(("mkdir -p %s/same/image"):format(here)))
assert(compile(here .. "/same", "hop", "test/image/hop.c") and compile(here .. "/same", "arena", "test/image/arena.c"))
local passed, failed = 0, 0
local function tell(ok, ...)
  if ok then passed = passed + 1 else failed = failed + 1 end
  print((ok and "ok: " or "FAILED: ") .. string.format(...))
  io.stdout:flush()
end
if not quick then -- the unit tests do that
  build(here .. "/whole", text)
  local first = noticed_by(here .. "/whole", programs())
  tell(not first, "the whole walk moves every program%s", first and " but " .. first or "")
end
for _, s in ipairs(list) do
  if not next(wanted) or wanted[s.number] then
    local folder = ("%s/%d"):format(here, s.number)
    build(folder, text:sub(1, s.from - 1) .. ";" .. text:sub(s.to))
    local by, why = noticed_by(folder, programs()), EXPLAINED[s.key]
    tell((by ~= nil) ~= (why ~= nil), "%s:%d without `%s`: %s", WALK, s.line, s.key,
      by and "noticed by " .. by or "not noticed" .. (why and ": " .. why or ""))
    run("rm -r " .. folder)
  end
end
run("rm -r " .. here)
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0)
