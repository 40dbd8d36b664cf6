-- version.lua: the version stands once, in meson.build. Most of what tells it is made from there
-- (the programs, the manual pages, the files of pkg-config, the names of the libraries); what
-- can't read it says the same. `./dev version NEW` writes all of them:
--
--   lua5.4 test/check/version.lua              complains about what differs
--   lua5.4 test/check/version.lua --set NEW    changes each of them

local check = dofile "test/check/report.lua"

local version = check.read("meson.build"):match("project%('moonfork'.-version: '([%d.]+)'")
assert(version and version:match "^%d+%.%d+%.%d+$", "meson.build has no version")

local function rockspec(of) return ("moonfork-%s-1.rockspec"):format(of) end

local function parts(of)
  return ("#define MF_VERSION_MAJOR %d\n#define MF_VERSION_MINOR %d\n#define MF_VERSION_PATCH %d\n")
    :format(of:match "(%d+)%.(%d+)%.(%d+)")
end

-- Files with the texts that they have, as functions of the version.
local carriers = {
  {"meson.build", "version: '%s'"},
  {"include/moonfork.h", '#define MF_VERSION_STRING "%s"', parts},
  {"lua/moonfork/load.lua", 'local VERSION = "%s"'},
  {"lua/moonfork/ffi_core.lua", 'local VERSION = "%s"'},
  {"lua/moonfork/pseudo.lua", 'local VERSION = "%s"'},
  {rockspec(version), 'local VERSION = "%s"'},
  {"debian/changelog", "moonfork (%s-1) "},
  {"Containerfile", 'image.version="%s"'},
  {"CHANGES.md", "\n## %s"},
  {"doc/lua-api.md", '| `"moonfork %s"` |'},
  {"doc/protocol.md", 'the version of moonfork ("%s")'},
  {"doc/debugging.md", "\nmoonfork %s, process"},
}

local function text_of(form, of)
  return type(form) == "function" and form(of) or form:format(of)
end

local function look()
  for _, carrier in ipairs(carriers) do
    local text = check.find(carrier[1])
    if not text then check.complain("%s is missing", carrier[1]) end
    for i = 2, #carrier do
      local wanted = text_of(carrier[i], version)
      if text and not text:find(wanted, 1, true) then
        check.complain("%s does not have: %s", carrier[1], wanted)
      end
    end
  end
end

local function set(new)
  for _, carrier in ipairs(carriers) do
    local text = check.read(carrier[1])
    for i = 2, #carrier do
      local from, to = text:find(text_of(carrier[i], version), 1, true)
      assert(from, carrier[1] .. " is of another version; see ./dev check")
      text = text:sub(1, from - 1) .. text_of(carrier[i], new) .. text:sub(to + 1)
    end
    local file = assert(io.open(carrier[1], "wb"))
    assert(file:write(text))
    assert(file:close())
  end
  assert(os.rename(rockspec(version), rockspec(new)))
end

if arg[1] == "--set" then
  assert(arg[2]:match "^%d+%.%d+%.%d+$", "a version is three numbers, 1.2.3")
  set(arg[2])
else
  look()
  check.done()
end
