-- every 4
-- Short and long strings, buffers, the cache of C's literals, methods of strings.
local parts, interned = {}, {}
for i = 1, 150 do
  local s = "short" .. i
  interned[s] = i
  parts[i] = s
end
for i = 1, 150 do assert(interned["short" .. i] == i) end

local long = {}
for i = 1, 30 do long[i] = ("x" .. i):rep(i * 10) end
for i = 1, 30 do assert(long[i] == ("x" .. i):rep(i * 10)) end
for i = 41, 39, -1 do assert(#("a"):rep(i) == i) end

local text = table.concat(parts, " ")
local n = 0
for word in text:gmatch "%a+%d+" do
  n = n + 1
  assert(word == parts[n])
end
assert(n == 150)
assert(text:gsub("short(%d+)", "%1"):sub(1, 9) == "1 2 3 4 5")
local replaced = text:gsub("%d+", {["7"] = "seven", ["77"] = "two sevens"})
assert(replaced:find("shortseven shor", 1, true) and replaced:find "two sevens")
local upper = text:sub(1, 60):gsub("%a+", function(w) return w:upper() end)
assert(upper:sub(1, 6) == "SHORT1")

for i = 1, 40 do
  local packed = string.pack("<i4 z s2 d", i, "zero", ("y"):rep(i), i / 2)
  local a, b, c, d = string.unpack("<i4 z s2 d", packed)
  assert(a == i and b == "zero" and #c == i and d == i / 2)
  assert(("%5d|%-5s|%q|%a"):format(i, "ab", "q\n", 0.5):find(tostring(i), 1, true))
end

for _, codepoint in utf8.codes("a\u{e4}\u{20ac}\u{10348}") do assert(codepoint > 0) end
assert(utf8.char(97, 228, 8364):reverse():len() == 6)
local bytes = {("moonfork"):byte(1, -1)}
assert(string.char(table.unpack(bytes)) == "moonfork")

-- strings that are made, forgotten and made again while the collector runs
for round = 1, 15 do
  for i = 1, 25 do
    local s = ("%d-%d"):format(round, i)
    assert(s:match "^(%d+)-" == tostring(round) and #s >= 3)
  end
  collectgarbage "step"
end
local a, b = ("lo"):rep(100), ("lolo"):rep(50)
assert(a == b and a <= b and not (a < b) and (a .. "x") > b)
assert(tostring(12) == "12" and tonumber "0x10" == 16 and tostring(nil) == "nil")
