-- every 4
-- Coroutines in every state, nested, wrapped, in errors and closed.
local function generator(n)
  return coroutine.wrap(function() for i = 1, n do coroutine.yield(i, {i}) end end)
end
local sum = 0
for i, t in generator(40) do sum = sum + i; assert(t[1] == i) end
assert(sum == 820)

local function walk(t)
  if type(t) ~= "table" then coroutine.yield(t) return end
  for _, v in ipairs(t) do walk(v) end
end
local leaves = {}
for v in coroutine.wrap(function() walk {1, {2, {3, {4, {5}}}}, 6} end) do leaves[#leaves + 1] = v end
assert(table.concat(leaves) == "123456")

local many = {}
for i = 1, 30 do
  many[i] = coroutine.create(function(a, ...)
    local got = {a, ...}
    while true do
      local x = coroutine.yield(#got, got[#got])
      if not x then return "end", #got end
      got[#got + 1] = x
    end
  end)
  assert(select(2, coroutine.resume(many[i], i, i + 1)) == 2)
end
for round = 1, 5 do
  for i, co in ipairs(many) do
    local ok, n, last = coroutine.resume(co, round * i)
    assert(ok and n == 2 + round and last == round * i)
  end
end
for _, co in ipairs(many) do
  local ok, word, n = coroutine.resume(co)
  assert(ok and word == "end" and n == 7 and coroutine.status(co) == "dead")
  assert(not coroutine.resume(co))
end

-- errors: through pcall in a coroutine, out of it, with the dead one's traceback
local co = coroutine.create(function()
  local ok, err = pcall(function()
    coroutine.yield "in pcall"
    error {code = 7}
  end)
  assert(not ok and err.code == 7)
  local ok2, err2 = xpcall(function()
    coroutine.yield "in xpcall"
    local nothing
    return nothing.field
  end, function(message) return "handled: " .. message end)
  assert(not ok2 and err2:find "handled: .*nothing")
  coroutine.yield "out"
  error "last"
end)
for _, word in ipairs {"in pcall", "in xpcall", "out"} do
  local ok, got = coroutine.resume(co)
  assert(ok and got == word)
  for i = 1, 10 do local _ = {i} end
end
local ok, err = coroutine.resume(co)
assert(not ok and err:find "last" and debug.traceback(co):find "error")
assert(coroutine.close(co) == false)

-- deep inside of calls when it yields, and coroutines in coroutines
local function down(n) if n == 0 then return coroutine.yield "deep" end return (down(n - 1)) end
local deep = coroutine.wrap(function() return down(60) end)
assert(deep() == "deep")
for i = 1, 20 do local _ = ("x"):rep(i) end
assert(deep "up" == "up")
local function nest(n)
  if n == 0 then return "bottom" end
  local inner = coroutine.wrap(nest)
  return inner(n - 1) .. n
end
assert(nest(8) == "bottom12345678")

-- yields across metamethods, iterators and table functions that allow it
local proxy = setmetatable({}, {__index = function(_, k) return coroutine.yield(k) end,
  __add = function(a, b) return coroutine.yield("add") end,
  __call = function(_, ...) return coroutine.yield(...) end,
  __concat = function() return coroutine.yield "concat" end,
  __eq = function() return coroutine.yield "eq" end,
  __lt = function() return coroutine.yield "lt" end,
  __len = function() return coroutine.yield "len" end,
  __close = function() coroutine.yield "close" end})
local other = setmetatable({}, getmetatable(proxy))
local meta = coroutine.wrap(function()
  local x <close> = proxy
  local got = {proxy.name, proxy + 1, proxy(1, 2), proxy .. "s", proxy == other, proxy < other, #proxy}
  return table.unpack(got, 1, 7)
end)
local words, answer = {}, nil
for i = 1, 8 do
  words[i] = meta(answer)
  answer = i
end
assert(table.concat(words, " ") == "name add 1 concat eq lt len close")
local r = {meta()}
assert(r[1] == 1 and r[2] == 2 and r[3] == 3 and r[4] == 4 and r[5] == true and r[6] == true and r[7] == 7)
