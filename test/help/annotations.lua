-- annotations: reads LuaCATS annotations, as far as moonfork's own files use them. What it does not
-- know raises, with file and line, so that nothing in them goes unread.
--
--   local types = annotations.read{"lua/moonfork/meta.lua", ...}
--   types.classes["moonfork.process"] -> {parents = {...}, names = {fork = true, ...}}
--   types.aliases["moonfork.code"]    -> {"\"REMOTE\"", ...}
--   types.modules["moonfork.clone"]   -> the class of what the file returns
local annotations = {}

local function fail(place, form, ...)
  error(("%s: " .. form):format(place, ...), 0)
end

-- The type at the beginning of the text: without what describes it behind a space outside of all
-- brackets. "fun(a: b): c, d" goes on behind its colon and commas.
local function type_of(text)
  local depth, at = 0, 1
  while at <= #text do
    local c = text:sub(at, at)
    if c == '"' then at = assert(text:find('"', at + 1, true), text) end
    if c:find "[%(%[{<]" then depth = depth + 1 end
    if c:find "[%)%]}>]" then depth = depth - 1 end
    if depth < 0 then return nil end
    if c == " " and depth == 0 and not text:sub(1, at - 1):find "[:,|]$" then break end
    at = at + 1
  end
  return depth == 0 and at > 1 and text:sub(1, at - 1) or nil
end

local function check_type(types, place, text)
  local found = type_of(text)
  if not found then fail(place, "no type: %q", text) end
  for name in found:gmatch "moonfork[%.%w_]*" do types.used[name] = types.used[name] or place end
  return found
end

local function class(types, place, name)
  if types.classes[name] then fail(place, "the class %s is there already", name) end
  local new = {name = name, parents = {}, names = {}, place = place}
  types.classes[name] = new
  return new
end

local tags = {}

function tags.meta(_, state, text)
  state.module = text
end

tags["class"] = function(types, state, text)
  local name, rest = text:match "^([%w_%.]+)(.*)$"
  state.class = class(types, state.place, name)
  local parents = rest:match "^:%s*([%w_%., ]+)"
  for parent in (parents or ""):gmatch "[%w_%.]+" do
    table.insert(state.class.parents, parent)
    types.used[parent] = types.used[parent] or state.place
  end
end

function tags.field(types, state, text)
  local name, rest = text:match "^([%w_]+)%??%s+(.+)$"
  if not name or not state.class then fail(state.place, "a field of nothing: %s", text) end
  if state.class.names[name] then fail(state.place, "%s is there already", name) end
  state.class.names[name] = check_type(types, state.place, rest)
end

function tags.alias(types, state, text)
  local name, rest = text:match "^([%w_%.]+)%s*(.*)$"
  state.alias = {}
  types.aliases[name] = state.alias
  if rest ~= "" then check_type(types, state.place, rest) end
end

function tags.param(types, state, text)
  local name, rest = text:match "^(%S+)%s+(.+)$"
  check_type(types, state.place, rest)
  table.insert(state.params, (name:gsub("%?$", "")))
end

tags["return"] = function(types, state, text) check_type(types, state.place, text) end
tags["type"] = function(types, state, text) state.type = check_type(types, state.place, text) end

function tags.operator(_, state, text)
  if not text:find "^call%(" then fail(state.place, "unknown operator: %s", text) end
  state.class.callable = true
end

-- A line of code: `local x = {}`, `function x:f(a, b) end`, `function x.f(a, b) end`, `return x`.
local function code(types, state, line)
  local name = line:match "^local ([%w_]+)"
  if name then
    state.variables[name] = state.type and {name = state.type} or state.class
    state.type = nil
    return
  end
  local variable, kind, method, arguments = line:match "^function ([%w_]+)([:.])([%w_]+)%((.*)%) end$"
  if variable then
    local owner = state.variables[variable]
    if not owner then fail(state.place, "%s is no class", variable) end
    if owner.names[method] then fail(state.place, "%s is there already", method) end
    if arguments ~= table.concat(state.params, ", ") then
      fail(state.place, "arguments (%s), but @param of (%s)", arguments, table.concat(state.params, ", "))
    end
    owner.names[method] = kind == ":" and "method" or "function"
    state.params = {}
    return
  end
  name = line:match "^return ([%w_]+)$"
  if not name then fail(state.place, "unknown: %s", line) end
  types.modules[state.module] = state.variables[name].name
end

local function read_file(types, path)
  local state, number = {variables = {}, params = {}}, 0
  for line in io.lines(path) do
    number = number + 1
    state.place = path .. ":" .. number
    local tag, text = line:match "^%-%-%-@(%w+)%s+(.*)$"
    if tag then
      if not tags[tag] then fail(state.place, "unknown annotation @%s", tag) end
      tags[tag](types, state, text)
    elseif line:find "^%-%-%-|" then
      table.insert(state.alias, (line:match "^%-%-%-|%s*(.+)$"))
    elseif line:find "^[^%-%s]" then
      code(types, state, line)
    elseif line:find "^%-%-%-@" then
      fail(state.place, "unknown annotation: %s", line)
    end
  end
  if #state.params > 0 then fail(path, "@param of no function") end
end

function annotations.read(paths)
  local types = {classes = {}, aliases = {}, modules = {}, used = {}}
  for _, path in ipairs(paths) do read_file(types, path) end
  for name, place in pairs(types.used) do
    if not types.classes[name] and not types.aliases[name] then fail(place, "no type %s", name) end
  end
  return types
end

--- The names of a class and of those that it is made of, sorted.
function annotations.names(types, name)
  local list, seen = {}, {}
  local function add(one)
    local c = types.classes[one]
    for key in pairs(c.names) do
      if not seen[key] then list[#list + 1] = key end
      seen[key] = true
    end
    for _, parent in ipairs(c.parents) do add(parent) end
  end
  add(name)
  table.sort(list)
  return list
end

return annotations
