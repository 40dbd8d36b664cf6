-- Tests of other_lua.lua: which failures are told to on_error, and which are not told again. In the
-- syntax of every Lua. Is called with the table of tests, moonfork.ffi, what makes a template, and
-- what looks.
local tests, fork, template, look = ...
local eq, is_error, within = look.eq, look.is_error, look.within

tests["a clone that fails with the words of its template is told as well"] = function()
  for first = 1, 2 do
    for reports = 0, 2 do
      local got, t = 0, template()
      local pair = { t, t:fork() }
      fork.on_error(function(err)
        is_error(err, "REMOTE", "^lost$")
        got = got + 1
      end)
      within(10, function() return pair[1]:pid() and pair[2]:pid() end, "both are processes")
      for i = 1, 2 do
        local p, ended = pair[first == 1 and i or 3 - i], nil
        p:on_exit(function() ended = true end)
        p:eval "fail 'lost'"
        within(10, function() return ended end, "it has failed")
      end
      if reports > 0 then is_error(select(2, pair[reports]:run "hello"), "REMOTE", "^lost$") end
      pair[1]:close()
      pair[2]:close()
      local wanted_count = reports == 0 and 2 or 1
      within(10, function() return got >= wanted_count end, "each failure is told")
      fork.loop()
      eq(got, wanted_count)
      fork.on_error(nil)
    end
  end
end

tests["a template that fails with the words of a fork that it has refused is told"] = function()
  local got
  fork.on_error(function(err) got = err end)
  local t = template():eval "require('moonfork.clone').before_fork(function() return false, 'no room' end)"
  is_error(select(2, t:fork():run "hello"), "FORK_FAILED", "^no room$")
  t:eval "error('no room', 0)":close()
  within(10, function() return got end, "its failure is told")
  is_error(got, "REMOTE", "^no room$")
  fork.loop()
  fork.on_error(nil)
end

tests["a failure that the run of a clone reports is not told again"] = function()
  local got, told = 0, nil
  fork.on_error(function() got = got + 1 end)
  local t = template():eval "fail 'lost'"
  t:fork():run("hello", function(err) told = err end)
  t:close()
  within(10, function() return told and told.message == "lost" end, "run is answered")
  for _ = 1, 10 do fork.step(0.01) end
  eq(got, 0)
  fork.on_error(nil)
end
