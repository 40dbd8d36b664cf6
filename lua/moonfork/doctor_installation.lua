-- The parts of an installation, where they were found, and whether they belong together: for
-- moonfork.doctor. The versions of files that were not loaded are read in them.

local core = require "moonfork.load"

local installation = {}

-- What the program says about itself; a script has none.
local program = package.loaded["moonfork.cli.system"] or {}

local function read(path)
  local file = io.open(path, "rb")
  local text = file and file:read "a"
  if file then file:close() end
  return text
end

-- The version that a file of Lua or a compiled part has in it, and the Lua that it is for.
local function version_in(path)
  local text = read(path) or ""
  local version = text:match 'local VERSION = "([^"\n]*)"'
  if version then return version end
  return text:match "moonfork (%d+%.%d+%.%d+[%w.-]*) for Lua (%d+%.%d+[%d.]*)"
end

local function folder_of(path)
  return path:match "^(.*)/[^/]*$" or "."
end

local function same_file(a, b)
  local one, two = core.file(a), core.file(b)
  return one and two and one.id == two.id
end

-- ---- the parts in use ----

local function lua_part()
  local path = package.searchpath("moonfork.load", package.path) or "?"
  return {part = "modules", version = version_in(path) or "?", path = folder_of(path)}
end

local function core_part(own)
  local _, lua = version_in(own or "")
  return {part = "C module", version = core.version, lua = lua, path = own or "in the program itself"}
end

local function template_part(path, problems)
  local part = {part = "template", path = path}
  local from = (os.getenv "MOONFORK_TEMPLATE" or "") ~= "" and " (MOONFORK_TEMPLATE)" or ""
  local file, why = core.file(path)
  local function problem(text)
    problems[#problems + 1] = {severity = "error", text = ("the template program %s%s %s"):format(path, from, text)}
  end
  if not path:find "/" then
    part.text = "searched in PATH"
  elseif not file then
    problem(("can't be used: %s; install it, or name another one by MOONFORK_TEMPLATE"):format(
      why:match ": (.*)$" or why))
  elseif file.directory or not file.executable then
    problem(file.directory and "is a directory; name the program in it" or
      "can't be executed; allow it with chmod +x, or install it again")
  else
    part.version, part.lua = version_in(path)
    part.path = file.path or path
  end
  if from ~= "" then part.text = "MOONFORK_TEMPLATE" end
  return part
end

local LIBRARY = "libmoonfork.so.0"

local function library_part(problems)
  local path, version = core.library(LIBRARY)
  if not path then
    return {part = "library", text = "the dynamic linker finds no " .. LIBRARY .. "; only C programs need it"}
  end
  if version ~= core.version then
    local from = os.getenv "LD_LIBRARY_PATH"
    problems[#problems + 1] = {severity = "warning", text =
      ("C programs get %s, which is moonfork %s, but this is moonfork %s; correct %s"):format(path, version,
        core.version, from and "LD_LIBRARY_PATH (" .. from .. ")" or "the configuration of the dynamic linker")}
  end
  return {part = "library", version = version, path = path}
end

-- ---- what others find ----

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

-- The program that a shell starts by the name "moonfork".
local function look_at_path(problems)
  if not program.path then return end
  for folder in (os.getenv "PATH" or ""):gmatch "[^:]+" do
    local path = folder .. "/moonfork"
    local file = core.file(path)
    if file and file.executable and not file.directory then
      if same_file(path, program.path) then return end
      local pipe = io.popen("timeout 5 " .. quote(path) .. " --version 2>/dev/null </dev/null")
      local version = pipe and (pipe:read "l" or ""):match "^moonfork ([^,%s]+)"
      if pipe then pipe:close() end
      problems[#problems + 1] = {severity = version == core.version and "note" or "warning", text =
        ("the shell finds another program, %s (moonfork %s), before %s (moonfork %s); correct PATH"):format(path,
          version or "of no version", program.path, program.version)}
      return
    end
  end
end

-- What `require "moonfork"` gives a script of this Lua.
local function look_at_lua_path(problems)
  if not program.lua_path then return end
  local from = (os.getenv "LUA_PATH_5_4" or os.getenv "LUA_PATH") and "LUA_PATH" or "Lua's own path"
  local path = package.searchpath("moonfork.load", program.lua_path)
  local c_path = package.searchpath("moonfork.core", program.lua_cpath)
  if not path or not c_path then
    problems[#problems + 1] = {severity = "note", text =
      ("scripts don't find the module (%s); set LUA_PATH='%s/?.lua;%s/?/init.lua;;'%s for them"):format(
        path and "its C part" or from, installation.modules, installation.modules,
        installation.core and (" and LUA_CPATH='%s/?.so;;'"):format(installation.core) or "")}
    return
  end
  for _, found in ipairs{{path, "LUA_PATH"}, {c_path, "LUA_CPATH"}} do
    local version = version_in(found[1])
    if version and version ~= core.version then
      problems[#problems + 1] = {severity = "warning", text =
        ("scripts find %s of moonfork %s, but this is moonfork %s; correct %s"):format(found[1], version,
          core.version, found[2])}
    end
  end
end

-- ---- all of it ----

local function compare(parts, problems)
  for _, part in ipairs(parts) do
    if part.version and part.version ~= core.version and part.part ~= "library" then
      problems[#problems + 1] = {severity = "error", text =
        ("the %s (%s) is moonfork %s, and the C module (%s) is moonfork %s; both have to be of one version")
          :format(part.part, part.path, part.version, parts.core.path, core.version)}
    end
    if part.lua and parts.core.lua and part.lua ~= parts.core.lua then
      problems[#problems + 1] = {severity = "error", text =
        ("the %s (%s) is for Lua %s, and this is Lua %s; both have to be of one build"):format(part.part,
          part.path, part.lua, parts.core.lua)}
    end
  end
end

--- look(): the parts, and the problems.
function installation.look()
  local own, template = core.places()
  local problems, parts = {}, {}
  if program.path or program.version then
    parts[#parts + 1] = {part = "program", version = program.version, path = program.path or "?"}
  end
  parts[#parts + 1] = lua_part()
  installation.modules = folder_of(parts[#parts].path)
  parts[#parts + 1] = core_part(own)
  parts.core = parts[#parts]
  installation.core = own and folder_of(folder_of(own))
  parts[#parts + 1] = library_part(problems)
  parts[#parts + 1] = template_part(template, problems)
  compare(parts, problems)
  look_at_path(problems)
  look_at_lua_path(problems)
  parts.core = nil
  return parts, problems
end

return installation
