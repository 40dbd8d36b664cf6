-- rpc_protocol.lua: doc/rpc-protocol.md has every name and number of src/wire/rpc_proto.h.
-- Frame types and flags must stand there in a row of a table "| number | `NAME` |", and no such
-- row may name what the header lacks; limits must be mentioned by name. Run from the top of the
-- tree.

local check = dofile "test/check/report.lua"
local complain, read = check.complain, check.read

local header = read("src/wire/rpc_proto.h"):gsub("/%*.-%*/", "")
local page = read("doc/rpc-protocol.md")

local wanted = {}
for _, name in ipairs { "rpc_request_type", "rpc_answer_type", "rpc_flags" } do
  local body = assert(header:match("enum " .. name .. "%s*{(.-)}"), "no enum " .. name)
  for member, number in body:gmatch("([%u_]+)%s*=%s*(%d+)") do
    wanted[member] = tonumber(number)
  end
end

local count = 0
for number, name in page:gmatch("\n| (%d+) | `(RPC_[%u_]+)` |") do
  if not wanted[name] then
    complain("doc/rpc-protocol.md: %s is not in the header", name)
  elseif wanted[name] ~= tonumber(number) then
    complain("doc/rpc-protocol.md: %s is %d, not %s", name, wanted[name], number)
  end
  wanted[name] = nil
  count = count + 1
end
for name in pairs(wanted) do
  complain("doc/rpc-protocol.md: no row for %s", name)
end

for name in header:gmatch("RPC_[%u_]+_MAX") do
  if not page:find(name, 1, true) then complain("doc/rpc-protocol.md: no word of %s", name) end
end
for _, name in ipairs { "RPC_BATCH_BYTES", "moonfork.rpc:serve" } do
  if not page:find(name, 1, true) then complain("doc/rpc-protocol.md: no word of %s", name) end
end

assert(count > 0, "no frame types and flags found")
print(count .. " frame types and flags were looked for")
check.done()
