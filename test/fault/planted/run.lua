-- Plants the defects of defects.lua, one at a time, into a copy of the tree, builds it, and
-- runs the tests that should notice. A suite that lets one pass needs another test.
--
--   ./dev planted [OPTION...] [NAME...]     the defects whose names contain NAME; none: all
--     --list     says what there is
--     --check    only looks whether each edit still has exactly one place in the tree, and
--                whether its tests are there; where the code has moved on, the defect has to be
--                written anew
--     --all      runs the whole suite, not only the tests that the defect names
--     --again    does not first look whether those tests pass without a defect
--
-- Everything happens below build-planted/ (tree: the copy; tree/build: its build, which
-- stays, so that a defect costs one incremental build). The exit status is 0 when all were
-- noticed. Needs a POSIX shell, meson and ninja, as ./dev build does.
local here = arg[0]:match "^(.*)/[^/]*$" or "."
local top = here .. "/../../.."
local room = top .. "/build-planted"
local tree = room .. "/tree"
local defects = dofile(here .. "/defects.lua")

local function run(command)
  return (os.execute(command))
end

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function read(path)
  local f <close> = assert(io.open(path, "rb"))
  return f:read "a"
end

local function write(path, text)
  local f <close> = assert(io.open(path, "wb"))
  assert(f:write(text))
end

-- ---- the edits ----

local function count(text, find)
  local n, at = 0, 1
  while true do
    local from, to = text:find(find, at, true)
    if not from then return n end
    n, at = n + 1, to + 1
  end
end

-- The text with the defect, or nil and why there is none.
local function spoil(text, defect)
  if defect.find == defect.replace then return nil, "replaces nothing" end
  local n = count(text, defect.find)
  if n ~= 1 then return nil, ("%d places in %s have the text to replace"):format(n, defect.file) end
  local from, to = text:find(defect.find, 1, true)
  return text:sub(1, from - 1) .. defect.replace .. text:sub(to + 1)
end

-- A story that is not there would fail, and so notice any defect. Names that are put together
-- are looked for by a part that stands in the file.
local function has_story(text, part)
  for literal in text:gmatch '"([^"\n]*)"' do
    if literal:find(part, 1, true) then return true end
  end
  return false
end

local function check(defect)
  local f = io.open(top .. "/" .. defect.file, "rb")
  if not f then return nil, "there is no " .. defect.file end
  f:close()
  for _, test in ipairs(defect.tests) do
    local path = type(test) == "table" and test[1] or test
    local source = path:match "^unit/" and path .. ".c" or path
    local g = io.open(top .. "/test/" .. source, "rb")
    if not g then return nil, "there is no test/" .. source end
    g:close()
    if path == source and type(test) == "table" and not has_story(read(top .. "/test/" .. path), test[2]) then
      return nil, ("no story of test/%s has '%s' in its name"):format(path, test[2])
    end
  end
  return spoil(read(top .. "/" .. defect.file), defect)
end

-- ---- the copy ----

-- Files keep their times, so that only what has changed since the last run is compiled.
local function copy()
  assert(run(("mkdir -p %s"):format(quote(tree))))
  assert(run(("cd %s && for entry in *; do case $entry in build*) ;; *) " ..
    "rm -rf %s/\"$entry\" && cp -Rp \"$entry\" %s/;; esac; done"):format(quote(top), quote(tree),
    quote(tree))))
end

local function build()
  local log = quote(room .. "/build.log")
  if not io.open(tree .. "/build/build.ninja") then
    assert(run(("cd %s && meson setup build -Dtests=enabled -Doptimization=1 >%s 2>&1"):format(
      quote(tree), log)), "meson setup failed: " .. room .. "/build.log")
  end
  return run(("ninja -C %s >%s 2>&1"):format(quote(tree .. "/build"), log))
end

-- ---- the tests ----

local function deadline(seconds)
  return ("timeout -k 5 %d "):format(seconds)
end

-- A unit test is named "unit/test_NAME" or {"unit/test_NAME", arguments}; a file of stories
-- by its path, or {path, a part of the story's name}.
local function passes(test)
  local path, more = test, nil
  if type(test) == "table" then path, more = test[1], test[2] end
  local log = quote(room .. "/test.log")
  if path:match "^unit/" then
    return run(("cd %s && CMOCKA_MESSAGE_OUTPUT=TAP MOONFORK_TEMPLATE=%s MOONFORK_TEST_DATA=%s "
      .. "ASAN_OPTIONS=allocator_may_return_null=1 %s build/test/%s %s >%s 2>&1"):format(
      quote(tree), quote(tree .. "/build/src/template/moonfork-template"),
      quote(tree .. "/test/data"), deadline(300), path, more or "", log))
  end
  return run(("%s/test/run --build %s %s --deadline 150 %s >%s 2>&1 </dev/null"):format(
    quote(tree), quote(tree .. "/build"), more and "--only " .. quote(more) or "",
    quote(tree .. "/test/" .. path), log))
end

local function name_of(test)
  if type(test) == "string" then return test end
  return ("%s (%s)"):format(test[1], test[2])
end

-- The unit tests first: they are quick.
local function everything()
  local list = {}
  local function add(pattern, form)
    local pipe = io.popen(("cd %s/test && ls %s"):format(quote(tree), pattern))
    for line in pipe:lines() do list[#list + 1] = line:gsub("%.c$", "") and form(line) end
    pipe:close()
  end
  add("unit/test_*.c", function(line) return (line:gsub("%.c$", "")) end)
  add("regress/*.lua proc/*.lua lua/*.lua fault/f_*.lua", function(line) return line end)
  return list
end

-- The name of the first test that fails, or nil.
local function notice(tests)
  for _, test in ipairs(tests) do
    if not passes(test) then return name_of(test) end
  end
end

-- ---- commands ----

local options, wanted = {}, {}
for _, word in ipairs(arg) do
  local name = word:match "^%-%-(%a+)$"
  if name then options[name] = true else wanted[#wanted + 1] = word end
end

local function is_wanted(defect)
  for _, word in ipairs(wanted) do
    if defect.name:find(word, 1, true) then return true end
  end
  return #wanted == 0
end

local chosen = {}
for _, defect in ipairs(defects) do
  if is_wanted(defect) then chosen[#chosen + 1] = defect end
end

if options.list then
  for _, defect in ipairs(chosen) do print(("%-34s %s"):format(defect.name, defect.file)) end
  os.exit(0)
end

if #chosen == 0 then
  io.stderr:write(("there is no defect whose name contains '%s'; see --list\n"):format(
    table.concat(wanted, "' or '")))
  os.exit(2)
end

local plantable = {}
for _, defect in ipairs(chosen) do
  local ok, why = check(defect)
  if ok then
    plantable[#plantable + 1] = defect
  else
    print(("can't be planted %s: %s"):format(defect.name, why))
  end
end
local drifted = #chosen - #plantable
if options.check then
  print(("%d defects, %d can't be planted"):format(#chosen, drifted))
  os.exit(drifted == 0)
end

-- Without a defect the tests have to pass, or their failures say nothing.
local function baseline()
  local seen, bad = {}, 0
  for _, defect in ipairs(plantable) do
    for _, test in ipairs(defect.tests) do
      local name = name_of(test)
      if not seen[name] then
        seen[name] = true
        if not passes(test) and not passes(test) then
          bad = bad + 1
          print(("without a defect fails: %s"):format(name))
        end
      end
    end
  end
  return bad
end

copy()
assert(build(), "the tree does not build: " .. room .. "/build.log")
local bad = drifted + (options.again and 0 or baseline())
local noticed, passed = 0, 0
for _, defect in ipairs(plantable) do
  local path = tree .. "/" .. defect.file
  local text = read(path)
  write(path, assert(spoil(text, defect)))
  if not build() then
    bad = bad + 1
    print(("does not build   %s"):format(defect.name))
    run("tail -n 20 " .. quote(room .. "/build.log"))
  else
    local by = notice(options.all and everything() or defect.tests)
    if by then noticed = noticed + 1 else passed = passed + 1 end
    print(("%-16s %s%s"):format(by and "noticed" or "NOT noticed", defect.name,
      by and ": " .. by or ""))
  end
  write(path, text)
  io.stdout:flush()
end
build()
print(("%d planted defects: %d noticed, %d NOT noticed, %d not tried or without a baseline"):format(
  #chosen, noticed, passed, bad))
os.exit(passed == 0 and bad == 0)
