-- joined(...): the results of a function as one text, as `moonfork map` writes them: a tab between
-- two, nothing for nil. For moonfork.lines and its workers.
return function(...)
  local n, first = select("#", ...), ...
  if n == 1 and type(first) == "string" then return first end
  if n == 0 then return "" end
  local texts = {...}
  for i = 1, n do texts[i] = texts[i] == nil and "" or tostring(texts[i]) end
  return table.concat(texts, "\t", 1, n)
end
