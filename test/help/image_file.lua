-- image_file.lua: the file of an image, taken apart and put together, for stories that alter one.
--
--   local f = image_file.read(path)    f.header[name], f.libraries[i] = {path=, id=}, f.text
--   f:set("version", 3)                a number of the header
--   f:set_id(i, id)                    the build id of a library, as long as before
--   f:write(path)                      with a right checksum of header and tables
--
-- struct image_object is as in src/template/image/format.h.

local image_file = {}

-- The numbers of the header, in order: those of the program's own description.
local PLACE = {}
do
  local f = assert(io.open(os.getenv "MOONFORK_SOURCE" .. "/src/template/image/format.h"))
  local fields = f:read("a"):match "struct image_header {(.-)struct collector":gsub("/%*.-%*/", "")
  f:close()
  local at = 9 -- behind the magic
  for size, names in fields:gmatch "uint(%d+)_t ([^;]+);" do
    local n = tonumber(size) // 8
    for name in names:gmatch "[%w_]+" do
      PLACE[name] = {at, "=I" .. n}
      at = at + n
    end
  end
  assert(PLACE.version and PLACE.content_sum)
end
local LIBRARY_SIZE, PATCH_SIZE, PART_SIZE = 56, 24, 32

local File = {}
File.__index = File

local function replaced(text, at, with)
  return text:sub(1, at - 1) .. with .. text:sub(at + #with)
end

function File:get(name)
  return (string.unpack(PLACE[name][2], self.text, PLACE[name][1]))
end

function File:set(name, value)
  self.text = replaced(self.text, PLACE[name][1], string.pack(PLACE[name][2], value))
end

local function library_at(self, i)
  return self:get "header_size" + (i - 1) * LIBRARY_SIZE + 1
end

function File:set_id(i, id)
  assert(#id == #self.libraries[i].id)
  self.text = replaced(self.text, library_at(self, i) + 24, id)
end

--- Where in the file the table begins: "objects", "patches", "parts", "tables", "hooks".
function File:offset(name)
  local at = self:get "header_size"
  for _, part in ipairs{{"objects", LIBRARY_SIZE}, {"patches", PATCH_SIZE}, {"parts", PART_SIZE}, {"tables", 8},
    {"hooks", 8}} do
    if part[1] == name then return at end
    at = at + self:get("n" .. part[1]) * part[2]
  end
end

--- Replaces the bytes from this offset (0: the first).
function File:put(offset, bytes)
  self.text = replaced(self.text, offset + 1, bytes)
end

local function sum(text)
  local s = 1
  for at = 1, #text - 7, 8 do
    s = ((s << 29 | s >> 35) ~ string.unpack("=I8", text, at)) * 0x9e3779b97f4a7c15
  end
  return s
end

function File:write(path)
  local at = PLACE.meta_sum[1]
  self:set("meta_sum", 0)
  local meta = self.text:sub(1, self:get "meta_size")
  -- image_sum of what is before the field, of the field, of what is behind it: one sum
  assert((at - 1) % 8 == 0)
  self:set("meta_sum", sum(meta))
  local f = assert(io.open(path, "wb"))
  f:write(self.text)
  f:close()
  os.execute(("chmod 600 '%s'"):format(path))
end

function image_file.read(path)
  local f = assert(io.open(path, "rb"))
  local self = setmetatable({text = f:read "a", libraries = {}}, File)
  f:close()
  local texts = self:get "header_size" + self:get "nobjects" * LIBRARY_SIZE + self:get "npatches" * PATCH_SIZE
    + self:get "nparts" * PART_SIZE + (self:get "ntables" + self:get "nhooks") * 8
  for i = 1, self:get "nobjects" do
    local _, path_at, npath, nid = string.unpack("=I8 I4I4I4", self.text, library_at(self, i))
    self.libraries[i] = {path = self.text:sub(texts + path_at + 1, texts + path_at + npath),
      id = self.text:sub(library_at(self, i) + 24, library_at(self, i) + 23 + nid)}
  end
  return self
end

-- A program that is the template program in a process where the addresses of that image are taken.
function image_file.occupied(t, image)
  local base, preloaded = image_file.read(image):get "base", os.getenv "STORY_PRELOAD" or ""
  local path = t:file(("program%x"):format(base), ([[#!/bin/sh
exec env LD_PRELOAD='%s %s/test/help/occupy.so' OCCUPY=%x '%s' "$@"
]]):format(preloaded, os.getenv "MOONFORK_BUILD", base, os.getenv "MOONFORK_TEMPLATE"))
  os.execute(("chmod 755 '%s'"):format(path))
  return path
end

return image_file
