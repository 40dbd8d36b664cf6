-- with_sqlite.lua: a database connection per clone. What crosses a fork is in two processes: one
-- file position, one set of locks, two who say goodbye. So the template only loads the library,
-- and on_fork opens a connection in each clone.

local fork = require "moonfork"

local WORKER = [[
  local path = ...
  local clone = require "moonfork.clone"
  local sqlite = require("luasql.sqlite3").sqlite3()
  local connection

  clone.on_fork(function()
    connection = assert(sqlite:connect(path))
    assert(connection:setautocommit(true))
    assert(connection:execute "PRAGMA busy_timeout = 10000") -- others write, too
  end)

  -- The first row of what a query finds, or the number of rows that a statement has changed.
  function execute(statement, ...)
    local values = { ... }
    local text = statement:gsub("?", function()
      return "'" .. connection:escape(table.remove(values, 1)) .. "'"
    end)
    local result = assert(connection:execute(text))
    if type(result) == "number" then return result end
    local row = { result:fetch() }
    result:close()
    return table.unpack(row)
  end
]]

local path = os.tmpname()
local pool = fork.new():eval(WORKER, path):pool("execute", { max = 3 })
assert(pool:call "CREATE TABLE people (name TEXT)")
for i = 1, 30 do
  pool:call("INSERT INTO people VALUES (?)", "Anne O'Neill " .. i, function(err) assert(not err, err) end)
end
fork.loop()
print(("%s people, the last is %s"):format(assert(pool:call "SELECT COUNT(*), MAX(name) FROM people")))
pool:close()
os.remove(path)
