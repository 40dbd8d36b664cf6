-- every 15
-- What ordinary programs do: sorting, queues, text, a small interpreter, prime numbers.
local random = 42
local function rnd(n)
  random = (random * 1103515245 + 12345) % 2147483648
  return random // 65536 % n + 1
end
local function quick(t, lo, hi)
  while lo < hi do
    local p, i, k = t[(lo + hi) // 2], lo, hi
    repeat
      while t[i] < p do i = i + 1 end
      while p < t[k] do k = k - 1 end
      if i <= k then t[i], t[k] = t[k], t[i]; i, k = i + 1, k - 1 end
    until i > k
    if k - lo < hi - i then quick(t, lo, k); lo = i else quick(t, i, hi); hi = k end
  end
end
local numbers = {}
for i = 1, 200 do numbers[i] = rnd(10000) end
local copy = table.move(numbers, 1, #numbers, 1, {})
quick(numbers, 1, #numbers)
table.sort(copy)
for i = 1, #copy do assert(copy[i] == numbers[i]) end
table.sort(copy, function(a, b) return a > b end)
for i = 1, #copy do assert(copy[i] == numbers[#numbers + 1 - i]) end

-- a binary tree
local function insert(node, k)
  if not node then return {key = k, n = 1} end
  if k == node.key then node.n = node.n + 1
  elseif k < node.key then node.left = insert(node.left, k)
  else node.right = insert(node.right, k) end
  return node
end
local root
for _ = 1, 120 do root = insert(root, "key" .. rnd(60)) end
local last, total = "", 0
local function each(node)
  if not node then return end
  each(node.left)
  assert(node.key > last)
  last, total = node.key, total + node.n
  each(node.right)
end
each(root)
assert(total == 120)

-- a stack machine whose code is text
local function evaluate(text)
  local stack = {}
  local ops = {["+"] = function(a, b) return a + b end, ["*"] = function(a, b) return a * b end,
    ["-"] = function(a, b) return a - b end}
  for word in text:gmatch "%S+" do
    local op = ops[word]
    if op then
      local b, a = table.remove(stack), table.remove(stack)
      stack[#stack + 1] = op(a, b)
    else stack[#stack + 1] = assert(math.tointeger(word)) end
  end
  return stack[1]
end
for i = 1, 15 do assert(evaluate(i .. " 2 * 3 + 4 5 * -") == i * 2 + 3 - 20) end

local sieve, primes = {}, {}
for i = 2, 300 do
  if not sieve[i] then
    primes[#primes + 1] = i
    for k = i * i, 300, i do sieve[k] = true end
  end
end
assert(#primes == 62 and primes[62] == 293)
local counts = {}
for c in ("the quick brown fox jumps over the lazy dog"):rep(5):gmatch "%a" do counts[c] = (counts[c] or 0) + 1 end
assert(counts.o == 20 and counts.z == 5)
