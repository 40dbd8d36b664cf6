-- nested_templates.lua: a process that has not run anything yet is a template as well. What
-- all workers need is loaded at the root; each kind of worker adds its own in a branch, and
-- a clone of a branch has both without having loaded either.
--
--   root: words ---- shouting ---- clone, clone
--             \----- whispering -- clone, clone

local fork = require "moonfork"

local root = fork.new():eval([[
  words = { "moon", "fork" }
  loaded_by = require("moonfork.clone").pid()
]])

local function branch(style)
  return root:fork():eval([[
    local style = ...
    function say(socket, index)
      socket:write(string[style](words[tonumber(index)]), " ", loaded_by, "\n")
    end
  ]], style)
end

local shouting, whispering = branch("upper"), branch("lower")

local loaded_by
for index = 1, 2 do
  for _, template in ipairs { shouting, whispering } do
    local socket = assert(template:fork():send_arg(index):run("say"))
    local word, pid = socket:read("l"):match("^(%a+) (%d+)$")
    loaded_by = loaded_by or pid
    assert(pid == loaded_by, "the words were loaded more than once")
    print(word)
    socket:close()
  end
end

shouting:close()
whispering:close()
root:close()
