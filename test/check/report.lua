-- report.lua: what the checks in Lua have in common. `local check = dofile
-- "test/check/report.lua"`, from the top of the tree.

local check = { complaints = 0 }

-- Something does not hold: says what, in the manner of string.format.
function check.complain(...)
  check.complaints = check.complaints + 1
  print(string.format(...))
end

-- The bytes of a file; nil where there is none.
function check.find(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("a")
  file:close()
  return text
end

-- The same of one that has to be there.
function check.read(path)
  return assert(check.find(path), path)
end

-- Ends the program: 0 when there were no complaints.
function check.done()
  os.exit(check.complaints == 0)
end

return check
