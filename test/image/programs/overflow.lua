-- every 5000
-- Stacks that grow until an error, and shrink again. They are the coroutine's: where nothing is moved.
local function message(f, ...)
  local ok, err = pcall(f, ...)
  assert(not ok)
  return err
end
local function endless(n) return 1 + endless(n + 1) end
local grown = coroutine.wrap(function()
  for _ = 1, 2 do assert(message(endless, 1):find "stack overflow"); coroutine.yield() end
end)
for _ = 1, 3 do
  grown()
  collectgarbage()
  for i = 1, 1000 do local _ = i end
end
local function hundred(n) if n == 0 then return 0 end return 1 + hundred(n - 1) end
for i = 1, 100 do assert(hundred(i) == i) end
