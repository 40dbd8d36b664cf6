-- shared_values.lua: values that the program has made already, given to all of its workers. Each
-- is packed once, for the template; clones have it because they are forked from it, and share
-- its memory. The settings are a global of the workers, and can be changed field by field.

local fork = require "moonfork"

-- A program would have read these from somewhere.
local settings = { language = "en", limits = { words = 3 } }
local frequent = {}
for word in ("the a of to and in is it you that"):gmatch "%a+" do frequent[word] = true end

local template = fork.new()
  :set("settings", settings)
  :set("frequent", frequent)
  :eval [[
    function keywords(text)
      local found = {}
      for word in text:lower():gmatch "%a+" do
        if not frequent[word] and #found < settings.limits.words then found[#found + 1] = word end
      end
      return table.concat(found, " "), settings.language
    end
  ]]

-- A branch that differs in one field; the template stays as it is.
local verbose = template:fork():set("settings.limits.words", 100)

local short <close> = template:rpc "keywords"
local long <close> = verbose:rpc "keywords"
local text = "To be is to do, and that is the question of the day in it"
print(short(text))
print(long(text))
