-- protocol.lua: doc/protocol.md has every name and number of src/wire/proto.h. Commands,
-- answers, options, limits, failure codes and phases must stand there in a row of a table
-- "| number | `NAME` |", and no such row may name what the header lacks; the other constants
-- must be mentioned with their value. Run from the top of the tree.

local check = dofile "test/check/report.lua"
local complain, read = check.complain, check.read

local header = read("src/wire/proto.h"):gsub("/%*.-%*/", "")
local page = read("doc/protocol.md")

-- The members of an enum and their numbers, counted as C does.
local function members(name)
  local body = assert(header:match("enum " .. name .. "%s*{(.-)}"), "no enum " .. name)
  local found, next_number = {}, 0
  for item in body:gmatch("[^,]+") do
    local member, value = item:match("^%s*([%u%d_]+)%s*=%s*(%w+)%s*$")
    member = member or item:match("^%s*([%u%d_]+)%s*$")
    if member then
      local number = tonumber(value) or found[value] or next_number
      found[member] = number
      next_number = number + 1
    end
  end
  return found
end

local rows = {}
for number, name in page:gmatch("\n| (%d+) | `([%u%d_]+)` |") do
  if rows[name] then complain("doc/protocol.md: two rows for %s", name) end
  rows[name] = tonumber(number)
end

local known, nchecked = {}, 0
local function check_enum(enum)
  for name, number in pairs(members(enum)) do
    if not name:find("_LAST$") then
      known[name] = true
      nchecked = nchecked + 1
      if rows[name] ~= number then
        complain("doc/protocol.md: %s is %d in proto.h, %s here", name, number,
                 rows[name] or "not")
      end
    end
  end
end
for _, enum in ipairs {"command_type", "answer_type", "option_tag", "proto_limit",
                       "failure_code", "failure_phase"} do
  check_enum(enum)
end
for name in pairs(rows) do
  if not known[name] then complain("doc/protocol.md: no %s in proto.h", name) end
end

-- Constants: the name, and the value as the page writes it, both stand there.
local written = {
  FRAME_HEADER_SIZE = {"16", "16 bytes"},
  FRAME_BODY_MAX = {"256 * 1024", "262,144"},
  FRAME_FDS_MAX = {"16", "at most 16"},
  FRAME_MORE = {"1", "bit 0"},
  FRAME_BARE = {"2", "bit 1"},
  FRAME_TELL = {"4", "bit 2"},
  FRAME_ASK = {"8", "bit 3"},
  FRAME_ROW = {"16", "bit 4"},
  HELLO_TREE = {"1", "`HELLO_TREE`, 1"},
  FAILURE_TEXT_MAX = {"64 * 1024", "65,536"},
  FAILURE_VALUE_MAX = {"120 * 1024", "122,880"},
  PROTO_MAGIC = {"0x314b464du", "0x314b464d"},
  PROTO_VERSION = {"2", "version 2"},
  PROTO_PAYLOAD_MAX = {"(UINT64_C(4) << 30)", "4 GiB"},
  PROTO_NO_SLOT = {"0xffffffffu", "0xffffffff"},
  PROTO_NO_STR = {"0xffffffffu", "0xffffffff"},
  PROTO_BOOT_ARG = {'"--moonfork-template="', "--moonfork-template="},
  PROTO_BOOT_CONTROL_FD = {"3", "descriptor 3"},
  PROTO_BOOT_LEASH_FD = {"4", "descriptor 4"},
  PROTO_BOOT_INTAKE_FD = {"5", "a third one, 5"},
  PROTO_MARK_ENV = {'"MOONFORK_STARTED"', "MOONFORK_STARTED"},
}
local function value_of(name)
  return header:match("enum { " .. name .. " = ([^}]-) };") or
         header:match("#define " .. name .. " ([^\n]-)%s*\n")
end
local flat = page:gsub("%s+", " ")
for name, pair in pairs(written) do
  local value = value_of(name)
  nchecked = nchecked + 1
  if value ~= pair[1] then
    complain("proto.h: %s is %s; write that into doc/protocol.md and here", name, value)
  elseif not flat:find(name, 1, true) or not flat:find(pair[2], 1, true) then
    complain("doc/protocol.md: %s (%s) is missing", name, pair[2])
  end
end
for name in header:gmatch("#define (PROTO_[%u_]+) ") do
  if not written[name] then complain("protocol.lua: %s is new, list it here", name) end
end
for name in header:gmatch("enum { ([%u_]+) =") do
  if not written[name] then complain("protocol.lua: %s is new, list it here", name) end
end

print(nchecked .. " names and numbers of the protocol were looked for")
check.done()
