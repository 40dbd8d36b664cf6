-- every 4
-- What Lua 5.5 leaves outside of its memory: characters of strings, code of functions. And strings of
-- which the characters are a block of their own, as string.rep makes them there.
local text, more = {}, {}
for i = 1, 40 do
  text[i] = ("long enough for a block "):rep(80 + i)
  more[i] = hop.external and hop.external(i % 2 == 0) or text[i]
end
local f = assert(load("local a, b = ... return function(c)\n\n\n local t = {a, b, c}\n return t, 'constant' end"))
if hop.fixed_code then f = hop.fixed_code(string.dump(f)) end
local inner = f("a", 2)
local before = hop.moves()
for round = 1, 3 do
  for i = 1, 40 do
    assert(text[i] == ("long enough for a block "):rep(80 + i) and #text[i] == 24 * (80 + i))
    assert(more[i]:sub(1, 5) == (hop.external and "chara" or "long "))
    local t, constant = inner(i)
    assert(t[1] == "a" and t[2] == 2 and t[3] == i and constant == "constant")
    if i % 10 == 0 then text[i] = nil text[i] = ("long enough for a block "):rep(80 + i) end
  end
  collectgarbage(round == 2 and "generational" or "incremental")
  collectgarbage()
end
more, inner, f = nil, nil, nil
collectgarbage()
assert(hop.moves() > before)
