-- joined(...): the results of a function as one text, as `moonfork map` writes them: a tab between
-- two, nothing for nil. For moonfork.lines and its workers, and `moonfork call`. What has no text is an
-- error, not an address.

local plain = {string = true, number = true, boolean = true}

local function text_of(value, n)
  local meta = getmetatable(value)
  if plain[type(value)] or type(meta) == "table" and meta.__tostring then return tostring(value) end
  error(("result %d is a %s, which a line of text can't show: let the function return strings or numbers"):format(n,
    type(value)), 0)
end

return function(...)
  local n, first = select("#", ...), ...
  if n == 1 and type(first) == "string" then return first end
  if n == 0 then return "" end
  local texts = {...}
  for i = 1, n do texts[i] = texts[i] == nil and "" or text_of(texts[i], i) end
  return table.concat(texts, "\t", 1, n)
end
