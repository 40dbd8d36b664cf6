-- The pages of doc/ that show commands and programs: each is executed as its reader would do it, and
-- has to print what the page shows. The processes are the shell's, so there is no census.
local story = require "story"
local page = require "page"
story.census = false

local curl = os.execute "curl --version >/dev/null 2>&1"

story.test("the tutorial", {deadline = 100, skip = not curl and "needs curl" or nil}, function(t)
  page.run(t, "tutorial.md", {port = 8080})
end)

story.done()
