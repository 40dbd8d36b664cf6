-- What a process that begins as an image has for itself alone. The pages of the file are shared as long as
-- nobody writes to them. Functions of the program are named by their addresses in many places of an image,
-- so loading must not write them again where the program lies where it lay when the image was made.
local story = require "story"
local fork = require "moonfork"

local function is_at_fixed_address(pid)
  local file <close> = assert(io.open(("/proc/%d/exe"):format(pid), "rb"))
  local ET_EXEC = 2
  return ("<I2"):unpack(file:read(18), 17) == ET_EXEC
end

-- KiB of that file's mappings in which the process has written.
local function written(pid, path)
  local sum, inside = 0, false
  for line in io.lines(("/proc/%d/smaps"):format(pid)) do
    if line:find "^%x+%-%x+ " then inside = line:find(path, 1, true) ~= nil end
    local kib = inside and line:match "^Anonymous:%s*(%d+) kB"
    sum = sum + (tonumber(kib) or 0)
  end
  return sum
end

story.test("where the program has a fixed address, its functions' addresses are right already", function(t)
  local path = t:file "image"
  local p = fork.new_exec():eval [[
    list = {}
    for i = 1, 4000 do
      local format, text = string.format, ("x"):rep(300) .. i
      list[i] = {text, function() return format("%d", i) end}
    end
    function answer(socket)
      socket:write(list[4000][2]())
      socket:read "a"
    end
  ]]
  local saved, err = p:save(path)
  if not saved then
    t.error(err, "UNSUPPORTED")
    t.skip(err.message)
  end
  local q = fork.load(path)
  local socket = t.got(q:run "answer")
  t.eq(socket:read(4), "4000")
  local fixed, kib = is_at_fixed_address(q:pid()), written(q:pid(), path)
  socket:close()
  if not fixed then t.skip "this build's template program lies anywhere (option fixed_address)" end
  t.ok(kib > 0 and kib <= 128, kib .. " KiB of 2 MiB were written")
end)

story.done()
