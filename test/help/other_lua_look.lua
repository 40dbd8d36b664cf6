-- What the tests of other_lua.lua look with: at errors, at what this process has open, at its
-- children. In the syntax of every Lua. Is called with moonfork.ffi.
local fork = ...
local unpack = rawget(_G, "unpack") or rawget(table, "unpack")

local self_pid = assert(tonumber((assert(io.open "/proc/self/stat"):read "*l"):match "^(%d+)"))

local function lines_of(command)
  local lines, pipe = {}, assert(io.popen(command))
  for line in pipe:lines() do lines[#lines + 1] = line end
  pipe:close()
  return lines
end

-- Number and inode of what is open. Without the help of a program: that would see the pipe, too,
-- by which it is read, and sometimes both ends of it.
local function descriptors()
  local lines = {}
  for fd = 0, 1023 do
    local f = io.open(("/proc/self/fdinfo/%d"):format(fd))
    if f then
      lines[#lines + 1] = fd .. " " .. (f:read "*a":match "ino:%s*(%d+)" or "")
      f:close()
    end
  end
  return lines
end

-- The pids of the main thread's children: it is the one that starts processes here.
local function children()
  local f = assert(io.open(("/proc/%d/task/%d/children"):format(self_pid, self_pid)))
  local pids = {}
  for pid in f:read "*a":gmatch "%d+" do pids[#pids + 1] = pid end
  f:close()
  return pids
end

-- The library watches its descriptors by an epoll beside libuv's, which it lets go of some turns
-- after the last object is closed.
local function is_at_rest()
  return lines_of(("ls -l /proc/%d/fd 2>/dev/null | grep -c eventpoll"):format(self_pid))[1] == "1"
end

local function show()
  -- ps hangs with the runtime of AddressSanitizer in it
  return table.concat(lines_of(("unset LD_PRELOAD; ls -l /proc/%d/fd; ps -o pid=,stat=,args= --ppid %d"):format(
    self_pid, self_pid)), "\n")
end

local function eq(got, expected, what)
  if got == expected then return end
  error(("expected %s, got %s%s"):format(tostring(expected), tostring(got),
    what and " (" .. what .. ")" or ""), 2)
end

local function is_error(err, code, pattern)
  if type(err) ~= "table" then error("no error but " .. tostring(err), 2) end
  if err.code ~= code then
    error(("expected the error %s, got %s: %s"):format(code, tostring(err.code), tostring(err)), 2)
  end
  if pattern and not err.message:find(pattern) then
    error(("%q does not match %q"):format(err.message, pattern), 2)
  end
  return err
end

local function raises(pattern, f, ...)
  local args = { ... }
  local ok, err = pcall(function() return f(unpack(args)) end)
  if ok then error(("expected an error like %q"):format(pattern), 2) end
  if not tostring(err):find(pattern) then
    error(("expected an error like %q, got %q"):format(pattern, tostring(err)), 2)
  end
end

-- All that comes until the end.
local function read_all(fd)
  local parts = {}
  while true do
    local part = assert(fork.read(fd, 4096, 10))
    if part == "" then break end
    parts[#parts + 1] = part
  end
  assert(fork.close(fd))
  return table.concat(parts)
end

local scale = tonumber(os.getenv "STORY_SCALE" or "") or 1

local function within(seconds, predicate, what)
  local last = os.time() + seconds * scale + 1
  repeat
    if predicate() then return end
    if not fork.step(0.02) then os.execute "sleep 0.02" end
  until os.time() > last
  error("not within " .. seconds * scale .. " s: " .. what, 2)
end

return {
  descriptors = descriptors,
  children = children,
  is_at_rest = is_at_rest,
  show = show,
  eq = eq,
  is_error = is_error,
  raises = raises,
  read_all = read_all,
  within = within,
}
