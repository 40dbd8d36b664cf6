-- moonfork image: templates in files, made, compared with their checksums, and described.

local cli = require "moonfork.cli"
local template = require "moonfork.cli.template"
local one_line = require("moonfork.serve_log").one_line

local command = {
  name = "image",
  summary = "save a template in a file, or look at such a file",
  description = [[
With --output: loads the modules in a template, as the other commands do, and saves it as an image.
The commands run, map, serve and node begin with it by their option --image, and are ready as fast
as with nothing to load. An image fits the builds of moonfork, Lua and C modules that it was made with,
and no others; it holds all that the template has in memory, secrets included.]],
  options = {
    template.options[1],
    template.options[2],
    {short = "-o", long = "--output", value = "FILE", kind = "file", help = "Write the image to FILE"},
    {long = "--check", value = "FILE", kind = "file",
     help = "Read all of the image, compare it with its checksums, and load it"},
    {long = "--info", value = "FILE", kind = "file",
     help = "Print what the image was made with, and its size"},
  },
  examples = {
    {"moonfork image -o app.image -l app", "a template that has loaded the module app"},
    {"moonfork run --image app.image app:work", "a clone of it"},
    {"moonfork image --check app.image", "is it whole, and does it fit?"},
  },
}

-- As struct image_header and struct image_object in src/template/image/format.h.
local HEADER = "=c8 I4I4I4I4 I4I4 I8I8I8I8 I8I8 I8I8 I8I8I8I8I8I8"
local LIBRARY = "=I8 I4I4I4I4"
local LIBRARY_SIZE, PATCH_SIZE, PART_SIZE = 56, 24, 32
local VERSION = 2

local function unusable(file, text)
  cli.fail(cli.UNUSABLE, "%s", one_line(("%s: %s"):format(file, text)))
end

local function read_info(file)
  local f, message = io.open(file, "rb")
  if not f then cli.fail(cli.UNUSABLE, "%s", one_line(message)) end
  local head = f:read(string.packsize(HEADER))
  if not head or #head < string.packsize(HEADER) or head:sub(1, 8) ~= "MFIMAGE\0" then
    f:close()
    unusable(file, "it is no image")
  end
  local _, version, _, _, _, header_size, _, base, _, _, _, _, program, size, _, nlibraries, npatches,
    nparts, ntables, nhooks, ntexts = string.unpack(HEADER, head)
  if version ~= VERSION then
    f:close()
    unusable(file, "it is of another version of moonfork")
  end
  local info = {base = base, size = size, suspended = program ~= 0, patches = npatches, tables = ntables,
    libraries = {}}
  local first_text = header_size + nlibraries * LIBRARY_SIZE + npatches * PATCH_SIZE
    + nparts * PART_SIZE + (ntables + nhooks) * 8
  f:seek("set", header_size)
  local list = f:read(nlibraries * LIBRARY_SIZE) or ""
  f:seek("set", first_text)
  local texts = f:read(ntexts) or ""
  f:close()
  if #list < nlibraries * LIBRARY_SIZE or #texts < ntexts then unusable(file, "it is cut off") end
  for i = 0, nlibraries - 1 do
    local _, at, n, nid, _, next_at = string.unpack(LIBRARY, list, i * LIBRARY_SIZE + 1)
    info.libraries[i + 1] = {path = n > 0 and texts:sub(at + 1, at + n) or "the template program",
      id = list:sub(next_at, next_at + nid - 1):gsub(".", function(c) return ("%02x"):format(c:byte()) end)}
  end
  return info
end

local function print_info(file)
  local info, output = read_info(file), require "moonfork.cli.output"
  if info.suspended then output.write "suspended  a function, which `moonfork run --image` goes on with\n" end
  output.write(("size       %.1f MiB\naddress    0x%x\naddresses  %d that lead to these:\n"):format(
    info.size / (1 << 20), info.base, info.patches))
  for _, library in ipairs(info.libraries) do
    output.write(("  %s %s\n"):format(library.id, cli.printable_line(library.path)))
  end
  output.flush()
  return cli.OK
end

local function check(file)
  local process = require("moonfork").new_exec{image = file, verify = true, session = "new"}
  local ok, err = template.wait_loaded(process)
  process:close()
  if not ok then template.unusable(err) end
  return cli.OK
end

local function save(options)
  local process = template.load(require("moonfork").new_exec{session = "new"}, options)
  local loaded, err = template.wait_loaded(process)
  if not loaded then template.unusable(err) end
  local ok
  ok, err = process:save(options.output)
  process:close()
  if not ok then
    -- A message about the file begins with its absolute path.
    local text, path = template.first_line(err), err.errno and require("moonfork.options").image_path(options.output)
    if path and text:sub(1, #path + 2) == path .. ": " then text = text:sub(#path + 3) end
    cli.fail(err.errno and err.code == "EINVAL" and cli.UNUSABLE or cli.FAILED, "%s can't be saved: %s",
      options.output, text)
  end
  return cli.OK
end

function command.main(options)
  local given = 0
  for _, name in ipairs{"output", "check", "info"} do given = given + (options[name] and 1 or 0) end
  if given ~= 1 then
    cli.fail(cli.USAGE, "one of the options --output, --check and --info expected; see moonfork image --help")
  end
  if options.code and not options.output then
    cli.fail(cli.USAGE, "--load and --eval need --output; see moonfork image --help")
  end
  if options.info then return print_info(options.info) end
  if options.check then return check(options.check) end
  return save(options)
end

return command
