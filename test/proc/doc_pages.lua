-- The pages of doc/ that show commands and programs: each is executed as its reader would do it, and
-- has to print what the page shows. The processes are the shell's, so there is no census.
local story = require "story"
local page = require "page"
story.census = false

local curl = os.execute "command -v curl >/dev/null"

story.test("the tutorial", {deadline = 100, skip = not curl and "needs curl" or nil}, function(t)
  page.run(t, "tutorial.md", {port = 8080})
end)

story.test("troubleshooting", {deadline = 100}, function(t)
  page.run(t, "troubleshooting.md")
end)

story.test("migration", {deadline = 100}, function(t)
  page.run(t, "migration.md", {loose = true})
end)

story.test("the C cookbook", {
  deadline = 100,
  skip = story.is_sanitized and "programs without a sanitizer can't use a library with one"
    or not os.execute "cc --version >/dev/null 2>&1 && pkg-config --exists libuv" and "needs a compiler" or nil,
}, function(t)
  page.run(t, "c-cookbook.md")
end)

story.done()
