-- Numbers in the option env lost digits and were written with the locale's decimal point
-- ("0,5"), as were numbers given to socket:write, clone.exec and the string serialiser. A nan
-- given to setenv unset the variable. Now the other side gets a text that it reads back as the
-- same number, whatever the locale.
--
-- The second half runs in an interpreter whose locale has a comma, or two bytes, for a point.
local story = require "story"
local fork = require "moonfork"

local NUMBERS = [[{ 0.1, 1 / 3, 0.1 + 0.2, 1e15, 1e100, 123456789.123456789, 2^53, -2^63, 5e-324,
  math.pi, -0.5, 1.0, 100, math.maxinteger, math.mininteger, 1.7976931348623157e308 }]]

-- Each way that a number takes as a text: a function that gives the text.
local WAYS = [[
  local fork = require "moonfork"
  local template = fork.new():eval [=[
    local clone = require "moonfork.clone"
    os.setlocale(os.getenv "CLONE_LOCALE" or "C")
    function env(socket) socket:write(os.getenv "NUMBER") end
    function arg(socket, text) socket:write(text) end
    function evaluated(socket) socket:write(TEXT) end
    function string_of(x) return x end
    function executed(socket, text)
      clone.exec("/bin/sh", { "sh", "-c", "printf %s \"$1$NUMBER\" >&3", "sh", tonumber(text) },
        { fds = { [3] = socket }, env = { NUMBER = tonumber(text) } })
    end
  ]=]
  local function ask(process, name)
    local socket = assert(process:run(name or "env"))
    local text = socket:read "a"
    socket:close()
    process:wait()
    process:close()
    return text
  end
  local rpc = template:fork():rpc("string_of", { serialiser = "string" })
  local ways = {
    env = function(x) return ask(template:fork { env = { NUMBER = x } }) end,
    setenv = function(x) return ask(template:fork():setenv("NUMBER", x)) end,
    send_arg = function(x) return ask(template:fork():send_arg(x), "arg") end,
    eval = function(x) return ask(template:fork():eval("TEXT = ...", x), "evaluated") end,
    rpc = function(x) return assert(rpc:call(x)) end,
    write = function(x)
      local a, b = fork.socket.pair()
      a:write(x, "\n")
      return b:read "l"
    end,
    send_fd = function(x)
      local a, b = fork.socket.pair()
      a:send_fd(0, x)
      return select(2, b:recv_fd())
    end,
    exec = function(x)
      local text = ask(template:fork():send_arg(x), "executed")
      assert(#text % 2 == 0 and text:sub(1, #text // 2) == text:sub(#text // 2 + 1), text)
      return text:sub(1, #text // 2)
    end,
  }
]]

local CHECK = WAYS .. [[
  local exact = {} -- what is written where the locale is C: tonumber may not read it elsewhere
  for i, x in ipairs(]] .. NUMBERS .. [[) do
    for name, way in pairs(ways) do
      local text = way(x)
      if text:find "[^-+0-9.e]" then print(name, x, text) end
      exact[#exact + 1] = name .. " " .. i .. " " .. text
    end
  end
  table.sort(exact)
  print(table.concat(exact, "\n"))
]]

local function plain(t)
  local out, code, err = t:lua(CHECK)
  t.eq({ code, err }, { 0, "" })
  return out
end

story.test("every number is read back as itself", { deadline = 60 }, function(t)
  local numbers = load("return " .. NUMBERS)()
  local n = 0
  for name, i, text in plain(t):gmatch "(%a[%w_]*) (%d+) (%S+)" do
    n = n + 1
    local x = numbers[tonumber(i)]
    t.eq(tonumber(text) == x, true, name .. " wrote " .. text)
    if name ~= "write" and name ~= "send_fd" then
      t.eq(math.type(tonumber(text)), math.type(x), name .. " wrote " .. text)
    end
  end
  t.eq(n, 8 * #numbers)
end)

-- Compiles a locale into the story's folder. A minimal system has no sources to compile from.
local function locale(t, name)
  local ok = os.execute(("localedef -i %s -f UTF-8 %s/%s.UTF-8 >%s 2>&1"):format(name, t:tmp(),
    name, t:file "log"))
  if not ok then t.skip("localedef has no " .. name) end
  return ("LOCPATH=%s LC_ALL=%s.UTF-8"):format(t:tmp(), name)
end

local function under(t, name, point, more)
  local variables = locale(t, name)
  local out, code, err = t:lua([[
    require "moonfork" -- a Lua with such a locale reads no fractions in a source
    assert(os.setlocale "")
    assert(("%.1f"):format(0.5) == "0" .. ]] .. ("%q"):format(point) .. [[ .. "5")
  ]] .. CHECK, { before = "env " .. variables .. " " .. (more or "") })
  t.eq({ code, err }, { 0, "" })
  t.eq(out, plain(t))
end

story.test("the same under a locale with a decimal comma", { deadline = 60 }, function(t)
  under(t, "de_DE", ",", "CLONE_LOCALE=")
end)

story.test("the same under a locale whose point is two bytes", { deadline = 60 }, function(t)
  under(t, "ps_AF", "\u{66B}")
end)

story.test("messages show numbers that way, too", function(t)
  local variables = locale(t, "de_DE")
  local out, code, err = t:lua([[
    assert(os.setlocale "")
    local fork = require "moonfork"
    print(pcall(fork.new, { timeout = -0.1 }))
    print(pcall(fork.step, -0.1))
    print(pcall(fork.new_exec, { spares = { max = 0.1 } }))
    local p = fork.new()
    print(pcall(p.limit, p, { cpu = 0.1 }))
    print(pcall(p.kill, p, 0.1))
    print(pcall(p.pool, p, "f", { load = 0.1 }))
    print(select(2, p:eval("os.setlocale '' error(0.1, 0)"):run "print"))
  ]], { before = "env " .. variables })
  t.eq({ code, err }, { 0, "" })
  t.eq(out:find "0,1", nil)
  local _, n = out:gsub("0%.1", "")
  t.eq(n, 7, out)
end)

story.test("what is no number is EINVAL, and changes nothing", function(t)
  local nan = 0 / 0
  for _, make in ipairs {
    function() return fork.new { env = { X = nan } } end,
    function() return fork.new():setenv("PATH", nan) end,
    function() return fork.new():send_arg(nan) end,
    function() return fork.new():eval("", nan) end,
  } do
    local p <close> = make()
    local socket, err = p:run "print"
    t.eq(socket, nil)
    t.error(err, "EINVAL", "nan")
  end
end)

story.done()
