-- The name that somebody who typed a wrong one most probably meant. Pure: it compares words.

-- The number of characters to insert, drop, replace, or exchange with their neighbour, to make b of a.
local function distance(a, b)
  local before, last = {}, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    local row = {[0] = i}
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last = last, row
  end
  return last[#b]
end

--- nearest(word, names): that of the names, or nil where none is near. One that begins with the word is
--- as near as one with a single mistake; a third of the word may be wrong, of two characters none.
local function nearest(word, names)
  local best, least
  if #word > 40 then return nil end -- no name is that long, and the time grows with the length
  for _, name in ipairs(names) do
    local n = distance(word, name)
    if #word > 2 and name:sub(1, #word) == word then n = math.min(n, 1) end
    if n <= #word // 3 and (not least or n < least) then best, least = name, n end
  end
  return best
end

return nearest
