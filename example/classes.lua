-- classes.lua: objects that keep their class on the way between processes. A class registers a
-- name and two functions in a module that both sides load: what an object is packed to, and
-- how it is made again. Here it is amounts of money, which are sorted and added up elsewhere.

package.preload.money = function()
  local Money = {}
  Money.__index = Money

  local function new(cents, currency)
    return setmetatable({ cents = cents, currency = currency }, Money)
  end

  function Money.__add(a, b)
    assert(a.currency == b.currency, "amounts of different currencies can't be added")
    return new(a.cents + b.cents, a.currency)
  end

  function Money:__tostring()
    return ("%d.%02d %s"):format(self.cents // 100, self.cents % 100, self.currency)
  end

  require("moonfork.rpc").register("money", Money,
    function(m) return { m.cents, m.currency } end,
    function(v) return new(v[1], v[2]) end)

  return { new = new }
end

local money = require "money"
local fork = require "moonfork"

-- The running program is the template, so the workers know the module already.
local template = fork.template():eval [[
  function total(list)
    local sum = list[1]
    for i = 2, #list do sum = sum + list[i] end
    return sum
  end
]]

local total <close> = template:rpc "total"

local sum = assert(total { money.new(1250, "EUR"), money.new(399, "EUR"), money.new(1, "EUR") })
print("the worker says: " .. tostring(sum))
print("and one more makes " .. tostring(sum + money.new(350, "EUR")))

local _, err = total { money.new(1, "EUR"), money.new(1, "USD") }
print((err.message:gsub("^.-: ", "")))
