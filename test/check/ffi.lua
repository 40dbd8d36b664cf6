-- ffi.lua: what lua/moonfork/ffi_cdef.lua tells LuaJIT of moonfork.h is what stands there: each
-- of its declarations is one of the header's, word by word, comments apart; and the numbers that
-- ffi_luajit.lua knows are those of the header.

local check = dofile "test/check/report.lua"
local complain, read = check.complain, check.read

local function plain(text)
  return " " .. text:gsub("/%*.-%*/", " "):gsub("MF_API", " "):gsub("%s+", " ")
end

local header = plain(read "include/moonfork.h")
local luajit = read "lua/moonfork/ffi_luajit.lua"
local ours = read "lua/moonfork/ffi_cdef.lua":match "cdef %[%[(.-)/%* %-%-%-%- libuv"
ours = plain(assert(ours, "no declarations found"))

local n = 0
local at = 1
while true do -- declarations end with a semicolon outside of braces
  local depth, stop = 0, nil
  for position, mark in ours:gmatch("()([{};])", at) do
    if mark == "{" then depth = depth + 1 elseif mark == "}" then depth = depth - 1
    elseif depth == 0 then
      stop = position
      break
    end
  end
  if not stop then break end
  local declaration = ours:sub(at, stop):match "^%s*(.*)$"
  n = n + 1
  if not header:find(" " .. declaration, 1, true) then
    complain("lua/moonfork/ffi_cdef.lua declares what moonfork.h does not:\n  %s", declaration)
  end
  at = stop + 1
end
assert(n > 50, "only " .. n .. " declarations found")

local function expect_code(name, constant)
  local number = read("include/moonfork.h"):match("X%(" .. name .. ", (%-%d+),")
  if not luajit:find(constant .. "[^\n]*" .. number:gsub("%-", "%%-")) then
    complain("ffi_luajit.lua: %s is not %s", constant, number)
  end
end
-- What a pool counts is one list for the modules in C; LuaJIT's has the same names.
local counts = assert(luajit:match "local COUNTS = (%b{})")
for name in read("src/bind/pool_counts.h"):gmatch "X%((%l[%l_]*)%)" do
  if not counts:find('"' .. name .. '"', 1, true) then complain("ffi_luajit.lua: a pool counts %s, too", name) end
end

-- So are options and their fields.
local nlists = 0
for list, rows in read("src/bind/option_fields.h"):gmatch "#define (%u+_%u+)%(X%)(.-)\n\n" do
  local known = assert(luajit:match("local " .. list .. " = (%b{})"), "ffi_luajit.lua has no " .. list)
  local expected, found = 0, select(2, known:gsub("=", ""))
  for field, name in rows:gmatch "X%(([%l_]+), ([%l_]+)%)" do
    expected = expected + 1
    if not known:find(("[{ ]%s = \"%s\""):format(name, field)) then
      complain("ffi_luajit.lua: %s lacks %s, which is the field %s", list, name, field)
    end
  end
  if expected ~= found then complain("ffi_luajit.lua: %s has %d options, %d expected", list, found, expected) end
  nlists = nlists + 1
end
assert(nlists == 6, nlists .. " lists of options found")

expect_code("NOMEM", "NOMEM")
expect_code("CLOSED", "CLOSED")
check.done()
