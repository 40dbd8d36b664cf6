-- words.lua: the field's words (STYLE.md, "Names"): what has a standard term is not called by another
-- word in code, comments and pages.

local check = dofile "test/check/report.lua"

-- word = what it is called here
local OTHERS = {
  octet = "byte", octets = "bytes", bury = "reap, free, close", grave = "serious", graves = "what is freed later",
  heir = "replacement", ghost = "a process that runs although its parent is gone", unborn = "pending",
  stillborn = "never started", newborn = "new", owe = "pending", owes = "pending", owed = "pending",
  guest = "embedded", brood = "descendants", doomed = "closing", mourn = "wait for",
}

local pipe = assert(io.popen [[find *.md include src lua doc example gdb \
  -name '*.[ch]' -o -name '*.lua' -o -name '*.md' -o -name '*.py']])
for path in pipe:lines() do
  local number = 0
  for line in check.read(path):gmatch "([^\n]*)\n" do
    number = number + 1
    for word in line:gmatch "%a+" do
      local right = OTHERS[word:lower()]
      if right then check.complain("%s:%d: '%s': say %s", path, number, word, right) end
    end
  end
end
pipe:close()
check.done()
