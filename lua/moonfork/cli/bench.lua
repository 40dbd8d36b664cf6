-- moonfork bench: measurements against raw C and other systems. The measuring itself is in the
-- folder bench of the sources, which is installed beside the compiled contestants.

local cli = require "moonfork.cli"
local json = require "moonfork.json"

local cases = {
  {"rate", "processes per second, processor time and page faults of one, the first byte"},
  {"growth", "the same with up to 1.4 GiB in the template"},
  {"spares", "clones that are forked ahead"},
  {"memory", "private memory of a clone"},
  {"exec", "a new interpreter"},
  {"clones", "8,000 clones at once"},
  {"calls", "calls of a function in a process that stays"},
  {"remote", "calls and forks behind a command, against the same here"},
  {"threads", "clones that are threads, against clones that are processes"},
  {"image", "templates that begin as an image, against an empty interpreter and against loading"},
  {"nats", "calls over a NATS server, against an echo in C with libnats alone"},
  {"map", "many items: pool:map, a loop, GNU parallel"},
  {"pays", "how much work an item needs to be worth a process"},
  {"http", "requests per second of HTTP servers: nginx with Lua, Node.js, gunicorn"},
}

local case_names = {}
for i, case in ipairs(cases) do case_names[i] = case[1] end

local function table_of_cases()
  local lines = {}
  for _, case in ipairs(cases) do lines[#lines + 1] = ("%s: %s."):format(case[1], case[2]) end
  return table.concat(lines, "\n\n")
end

local command = {
  name = "bench",
  summary = "measure this machine against raw C and other systems",
  description = [[
Measures moonfork by turns with a raw C program and with the other systems that are installed:
AnyEvent::Fork, luv, Python's fork server, GNU parallel, nginx, Node.js, gunicorn. One that is
missing is left out, and the report says so. The report is a text in Markdown on standard output.
Everything takes about eight minutes and both processors; --quick is a look of one.]],
  arguments = {{name = "NAME", many = true, words = case_names, help = "What to measure; default: everything"}},
  options = {
    {short = "-q", long = "--quick", help = "A look: fewer and shorter turns"},
    {long = "--json", help = "Print the tables as JSON at the end, in place of the report"},
    {short = "-o", long = "--output", value = "DIR", kind = "file",
     help = "Write results.md and the figures (SVG) into DIR, too"},
    {long = "--samples", value = "DIR", kind = "file",
     help = "Write what each program printed into DIR, too"},
  },
  notes = {{"Names", table_of_cases()}},
  examples = {
    {"moonfork bench --quick rate calls", "a look at two of the measurements"},
    {"moonfork bench --output results", "everything, with results.md and figures"},
  },
}

local function is_readable(path)
  local file = io.open(path, "r")
  if file then file:close() end
  return file ~= nil
end

-- Folders of the scripts and of the compiled contestants: those of the build, or as installed.
local function folders()
  local build, source = os.getenv "MOONFORK_BUILD" or "", os.getenv "MOONFORK_SOURCE" or ""
  local system = package.loaded["moonfork.cli.system"]
  if build ~= "" and source ~= "" then return source .. "/bench", build .. "/bench" end
  local installed = system and system.bench
  if not installed or not is_readable(installed .. "/run.lua") then
    cli.fail(cli.UNUSABLE, "the measurements are not installed (%s); install moonfork with its program",
      installed or "libexec/moonfork/bench")
  end
  return installed, installed
end

local function make_folder(path)
  if not path then return end
  local pipe <close> = assert(io.popen(("mkdir -p '%s' 2>&1"):format(path:gsub("'", "'\\''"))))
  local message = pipe:read "a"
  if message ~= "" then
    cli.fail(cli.UNUSABLE, "can't make the folder %s: %s", path, message:match "%s*([^:\n]*)\n$")
  end
end

-- {"| a | b |", "| --- | --- |", "| 1 | 2 |"} below the heading above them.
local function tables_of(report)
  local result = json.list{}
  local heading, current
  local function cells_of(line)
    local cells = json.list{}
    for cell in line:gmatch "([^|]+)|" do cells[#cells + 1] = cell:match "^%s*(.-)%s*$" end
    return cells
  end
  for _, line in ipairs(report) do
    heading = line:match "^## (.*)" or heading
    if not line:find "^|" then
      current = nil
    elseif not current then
      current = {title = heading or "", columns = cells_of(line), rows = json.list{}}
      result[#result + 1] = current
    elseif not line:find "^| %-%-%-" then
      current.rows[#current.rows + 1] = cells_of(line)
    end
  end
  return result
end

local function notes_of(report)
  local notes = json.list{}
  for _, line in ipairs(report) do notes[#notes + 1] = line:match "^%- (.*)" end
  return notes
end

local function wanted_of(names)
  if #names == 0 then return nil end
  local known, wanted = {}, {}
  for _, name in ipairs(case_names) do known[name] = true end
  for _, name in ipairs(names) do
    if not known[name] then
      cli.fail(cli.USAGE, "there is no measurement '%s' (there are: %s); see moonfork bench --help", name,
        table.concat(case_names, ", "))
    end
    wanted[name] = true
  end
  return wanted
end

function command.main(options)
  local interrupt = require "moonfork.cli.interrupt"
  local output = require "moonfork.cli.output"
  local wanted = wanted_of(options.name)
  local here, programs = folders()
  make_folder(options.output)
  make_folder(options.samples)
  local bench = assert(loadfile(here .. "/run.lua")){
    here = here, programs = programs, names = case_names, wanted = wanted, quick = options.quick,
    program = ("/proc/%d/exe"):format(require("moonfork.clone").pid()),
    output = options.output, samples = options.samples,
    say = function(line)
      if options.json then return end
      output.write(line .. "\n")
      output.flush()
    end,
  }
  cli.defer(bench.close)
  interrupt.watch(bench.stop, bench.stop)
  local ok, err = xpcall(bench.run, function(e)
    return type(e) == "table" and e or {message = debug.traceback(e, 2)}
  end)
  if interrupt.code then return interrupt.code end
  if not ok then
    if err.exit then error(err, 0) end
    cli.fail(cli.FAILED, "%s", err.message)
  end
  if options.json then
    output.write(json.encode{about = notes_of(bench.report),
      tables = tables_of(bench.report)} .. "\n")
    output.flush()
  end
  return cli.OK
end

return command
