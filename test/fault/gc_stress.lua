-- Random changes to a graph of objects, with a model beside it that knows what must be
-- there. Run by gc_stress.c (see there): in a template before and after seals, and in
-- clones of clones. What the collector must keep, the model names; what it must drop is
-- counted by finalisers and weak tables.
--
-- The model holds numbers and strings only, so that it keeps nothing of the graph alive:
-- for each object an id, and for each id the contents as they must be.

-- luacheck: globals stress
-- luacheck: read globals clone_collect
local seed, steps, role = ...
math.randomseed(seed)
local random = math.random

local G = rawget(_G, "stress")
if not G then
  G = {
    root = {},        -- id -> object: what is reachable on purpose
    model = {},       -- id -> description
    last = 0,
    finalised = 0, made = 0,     -- objects with a finaliser
    weak_values = setmetatable({}, {__mode = "v"}),
    weak_keys = setmetatable({}, {__mode = "k"}),
    threads = {},     -- id -> coroutine that counts
    resurrected = {},
  }
  stress = G
end

local function fail(...)
  error(string.format("%s: seed %d: ", role, seed) .. string.format(...), 2)
end
local function check(condition, ...)
  if not condition then
    fail(...)
  end
end

-- Contents follow from the id and a version, so the model needs only two numbers.
local function text_of(id, version)
  return ("object %d version %d "):format(id, version)
    .. (id % 5 == 0 and ("x"):rep(id % 300) or "")
end

local function finaliser(object)
  check(object.marker == "alive", "a finaliser saw a broken object")
  G.finalised = G.finalised + 1
  object.marker = "finalised"
  if object.id % 7 == 0 then
    G.resurrected[object.id % 64] = object
  end
end

local makers = {
  table = function(id)
    return {id = id, text = text_of(id, 0), child = {id = id}}
  end,
  list = function(id)
    local list = {}
    for i = 1, id % 100 do
      list[i] = id * 1000 + i
    end
    return {id = id, text = text_of(id, 0), child = {id = id}, list = list}
  end,
  closure = function(id)
    local counter, box = 0, {id = id}
    return {id = id, text = text_of(id, 0), child = box, count = function(n)
      counter = counter + n
      return counter, box.id
    end}
  end,
  finalised = function(id)
    G.made = G.made + 1
    return setmetatable({id = id, text = text_of(id, 0), child = {id = id}, marker = "alive"},
      {__gc = finaliser})
  end,
  thread = function(id)
    local object = {id = id, text = text_of(id, 0), child = {id = id}}
    object.thread = coroutine.wrap(function()
      local held, n = {id = id}, 0
      while true do
        n = n + 1
        local garbage = {n, held}
        coroutine.yield(n, garbage[2].id)
      end
    end)
    return object
  end,
  ephemeron = function(id)
    local key = {id = id}
    G.weak_keys[key] = {key = key, id = id} -- refers to its own key
    return {id = id, text = text_of(id, 0), child = key}
  end,
}
local kinds = {"table", "list", "closure", "finalised", "thread", "ephemeron"}

local function make()
  local id = G.last + 1
  G.last = id
  local kind = kinds[random(#kinds)]
  local object = makers[kind](id)
  G.root[id] = object
  G.model[id] = {kind = kind, version = 0, count = 0, ref = false}
  if random(3) == 1 then
    G.weak_values[id] = object
    G.model[id].weak = true
  end
end

local function some()
  for _ = 1, 8 do
    local id = random(math.max(G.last - 3000, 1), math.max(G.last, 1))
    if G.root[id] then
      return id, G.root[id], G.model[id]
    end
  end
end

local function verify(id)
  local object, model = G.root[id], G.model[id]
  check(object and model, "object %d is gone", id)
  check(object.id == id, "object %d says it is %s", id, tostring(object.id))
  check(object.text == text_of(id, model.version), "object %d has a wrong text", id)
  check(object.child.id == id, "object %d lost its child", id)
  if model.ref then
    check(object.ref and object.ref.tag == model.ref, "object %d lost a reference", id)
  end
  if model.weak then
    check(G.weak_values[id] == object, "a live weak value %d is gone", id)
  end
  if model.kind == "ephemeron" then
    local value = G.weak_keys[object.child]
    check(value and value.key == object.child and value.id == id, "ephemeron %d is gone", id)
  elseif model.kind == "finalised" then
    check(object.marker == "alive", "object %d was finalised alive", id)
  elseif model.kind == "list" then
    for i = 1, id % 100 do
      check(object.list[i] == id * 1000 + i, "list %d is wrong at %d", id, i)
    end
  end
end

local actions = {
  make, make, make,
  function() -- a new version: old objects come to refer to new strings
    local id, object, model = some()
    if id then
      model.version = model.version + 1
      object.text = text_of(id, model.version)
      object.child = model.kind == "ephemeron" and object.child or {id = id}
    end
  end,
  function() -- cross references, cycles among them
    local id, object, model = some()
    if id then
      local tag = random(1 << 30)
      model.ref = tag
      object.ref = {tag = tag, back = object, other = G.root[random(G.last)]}
    end
  end,
  function()
    local id, object, model = some()
    if id and model.kind == "closure" then
      local n, child = object.count(3)
      model.count = model.count + 3
      check(n == model.count and child == id, "closure %d miscounts", id)
    elseif id and model.kind == "thread" then
      local n, child = object.thread()
      model.count = model.count + 1
      check(n == model.count and child == id, "thread %d miscounts", id)
    end
  end,
  function() -- drop
    local id = some()
    if id then
      G.root[id], G.model[id] = nil, nil
    end
  end,
  function() -- drop the oldest: what young collections don't find
    local id = next(G.root)
    if id then
      G.root[id], G.model[id] = nil, nil
    end
  end,
  function()
    local id = some()
    if id then
      verify(id)
    end
  end,
  function() -- strings: the same again must be the same, whatever was collected
    local n = random(1000)
    local made = {}
    for i = 1, 20 do
      made[i] = "s" .. (n + i)
    end
    local names = {}
    for i = 1, 20 do
      names[made[i]] = i
    end
    for i = 1, 20 do
      check(names["s" .. (n + i)] == i, "a short string is not itself")
    end
  end,
  function() -- big blocks come and go
    if random(20) == 1 then
      local n = random(200000, 1200000)
      local s = ("abcdefgh"):rep(n // 8)
      check(#s == n // 8 * 8 and s:sub(-8) == "abcdefgh", "a big string is wrong")
    end
  end,
}

local options = {
  function() collectgarbage() end,
  function() collectgarbage "step" end,
  function() collectgarbage("step", random(100)) end,
  function()
    collectgarbage "stop"
    for _ = 1, 100 do make() end
    collectgarbage "restart"
  end,
  function() check(collectgarbage "count" > 0, "count") end,
  function() if random(30) == 1 then clone_collect() end end,
  function()
    if random(40) == 1 then
      collectgarbage "incremental"
      for i = 1, 200 do
        G.garbage = {{i}, G.garbage and G.garbage[1]}
      end
      collectgarbage "generational"
    end
  end,
}

-- What was dropped is gone: an object made here and now, and nothing that lives.
local function dropped_is_noticed()
  local before = G.finalised
  local weak = setmetatable({}, {__mode = "v"})
  do
    local object = makers.finalised(1)
    weak[1], weak[2] = object, {}
  end
  collectgarbage()
  check(weak[1] == nil and weak[2] == nil, "what was just dropped is still there")
  check(G.finalised > before, "what was just dropped was not finalised")
end

local function verify_all()
  for id in pairs(G.model) do
    verify(id)
  end
  for id in pairs(G.root) do
    check(G.model[id], "object %d is not in the model", id)
  end
  for id, object in pairs(G.resurrected) do
    check(object.marker == "finalised" and object.id % 64 == id, "a resurrected one is broken")
  end
  check(G.finalised <= G.made, "more finalised than made")
end

for step = 1, steps do
  actions[random(#actions)]()
  if step % 200 == 0 then
    options[random(#options)]()
  end
  if step % 1000 == 0 then
    dropped_is_noticed()
  end
end
verify_all()
