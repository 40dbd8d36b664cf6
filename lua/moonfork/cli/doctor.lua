-- moonfork doctor: the installation, the system, and whether modules may be loaded in a template.

local cli = require "moonfork.cli"
local engine = require "moonfork.cli.engine"
local one_line = require("moonfork.serve_log").one_line
local json = require "moonfork.json"
local units = require "moonfork.units"

local command = {
  name = "doctor",
  summary = "check the installation, the system, and modules for a template",
  description = [[
Shows the parts of this installation and whether they belong together, and what the system offers.
Then loads the modules in a new template, as -l of the other commands does, and prints a line for
each thing that a fork would get wrong: which module brought it, why it matters, and what to do.
The last line is "safe to fork", or "not safe to fork" with exit code 1. The standard output of the
modules themselves is not shown.

With --engine also a NATS server: whether it can be reached, and which messages its streams of jobs
keep that no node will take. With --subject also the jobs of a subject that has no node.]],
  checks_versions = true, -- and does not end where they differ
  arguments = {{name = "MODULE", help = "A module to load, in this order", many = true}},
  options = {
    {long = "--strict", help = "Warnings, too, make it not safe to fork"},
    {long = "--json", help = "Print everything as one JSON object"},
    {long = "--timeout", value = "S", kind = "seconds", default = "30",
     help = "The time that a module may take to load"},
    engine.url,
    engine.subject,
    table.unpack(engine.access),
  },
  examples = {
    {"moonfork doctor", "is everything here?"},
    {"moonfork doctor --strict app lpeg cjson", "in continuous integration: exit code 1 for each warning"},
  },
}

local LABELS = {refuses = "error", error = "error", warning = "warning", note = "note"}
local COLOURS = {error = "red", warning = "yellow", note = "dim"}

local function milliseconds(seconds)
  return ("%.1f ms"):format(seconds * 1e3)
end

-- Printable, in one line.
local function plain(text)
  return cli.printable_line(one_line(text))
end

local function label(paint, severity)
  local name = LABELS[severity]
  return paint(COLOURS[name], ("%-8s"):format(name))
end

local function print_installation(put, paint, parts, problems)
  put(paint("bold", "installation"))
  for _, part in ipairs(parts) do
    put(("  %-10s %-8s %s%s"):format(part.part, part.version or "-", part.path or part.text,
      part.path and part.text and (" (%s)"):format(part.text) or ""))
  end
  for _, problem in ipairs(problems) do
    put(("  %s %s"):format(label(paint, problem.severity), plain(problem.text)))
  end
end

local function print_system(put, paint, rows)
  put(paint("bold", "system"))
  for _, row in ipairs(rows) do
    local state = ("%-9s"):format(row.state)
    put(("  %-21s %s  %s"):format(row.name, row.missing and paint("yellow", state) or state, row.text))
  end
end

local function print_modules(put, paint, report)
  if #report.modules > 0 then put(paint("bold", "modules")) end
  for _, module in ipairs(report.modules) do
    put(("  %s %10s, %s (%s in Lua), %d threads, %d descriptors"):format(cli.padded(plain(module.name), 20),
      milliseconds(module.seconds), units.bytes(module.memory), units.bytes(module.lua), module.threads,
      module.descriptors))
  end
end

-- Errors that are a module's; others are failures of the check.
local UNUSABLE = {REMOTE = true, TEMPLATE_DIED = true, TIMEOUT = true}

local ORDER = {"refuses", "warning", "note"}

local function print_findings(put, paint, report)
  if #report.findings > 0 then put(paint("bold", "findings")) end
  for _, severity in ipairs(ORDER) do
    for _, finding in ipairs(report.findings) do
      if finding.severity == severity then
        local whose = finding.module and not finding.text:find("'" .. finding.module .. "'", 1, true)
          and ("module '%s': "):format(finding.module) or ""
        put(("  %s %s%s; %s; %s [%s]"):format(label(paint, severity), plain(whose), plain(finding.text),
          finding.why, finding.remedy, finding.kind))
      end
    end
  end
  if report.fork_seconds then
    put(("  a clone of this template was forked and ran its function after %s%s"):format(
      milliseconds(report.fork_seconds), report.flat and ""
        or "; it is a child of its template, since this process may not have it (CLONE_PARENT)"))
  end
end

local function has_error(problems, is_strict)
  for _, problem in ipairs(problems) do
    if problem.severity == "error" or is_strict and problem.severity == "warning" then return true end
  end
  return false
end

local function is_safe_with(report, problems, is_strict)
  return report.safe and (report.safe_strictly or not is_strict) and not has_error(problems, is_strict)
end

local function print_json(put, result, report, is_safe, err)
  if report then
    result.modules, result.findings = json.list(report.modules), json.list(report.findings)
    result.fork_seconds = report.fork_seconds
  end
  result.safe = is_safe
  result.error = err and one_line(err.message)
  put(json.encode(result))
end

-- Without its C part there is nothing to ask: what is wrong is said, and what to do.
local function load_doctor()
  local ok, doctor = pcall(require, "moonfork.doctor")
  if ok then return doctor end
  cli.fail(cli.FAILED, "the library can't be loaded: %s (modules are looked for in %s and %s; correct "
    .. "LUA_PATH and LUA_CPATH, or install moonfork again)", one_line(tostring(doctor)),
    os.getenv "LUA_PATH" and "LUA_PATH" or "Lua's path", os.getenv "LUA_CPATH" and "LUA_CPATH" or "its cpath")
end

function command.main(options)
  engine.check_store(options, "doctor")
  local doctor = load_doctor()
  local interrupt = require "moonfork.cli.interrupt"
  local terminal = require "moonfork.cli.terminal"
  local output = require "moonfork.cli.output"
  local paint = terminal.colour(1)
  local function put(line) output.write(line .. "\n") end
  local is_auditing = false -- which ends at a signal itself, with all that it has started
  local function quit() cli.quit(interrupt.code) end
  interrupt.watch(function() if not is_auditing then quit() end end, quit)

  local parts, problems = doctor.installation()
  local rows, kernel = doctor.system()
  local engine_state
  if options.engine then
    local found
    engine_state, found = require("moonfork.cli.doctor_engine").look(options)
    table.move(found, 1, #found, #problems + 1, problems)
  end
  if not options.json then
    put(("moonfork %s, %s, %s"):format(require("moonfork.load").version, _VERSION, kernel or "unknown system"))
    if engine_state then parts[#parts + 1] = {part = "engine", text = engine_state} end
    print_installation(put, paint, parts, problems)
    print_system(put, paint, rows)
    output.flush()
  end
  is_auditing = true
  local report, err = doctor.audit(options.module, {timeout = options.timeout,
    stop = function() return interrupt.code ~= nil end})
  local is_safe = report and is_safe_with(report, problems, options.strict) or false
  -- Where the installation is at fault, what becomes of the template tells nothing of a module.
  local is_unusable = err and UNUSABLE[err.code] and not has_error(problems, false)
  local code = is_safe and cli.OK or is_unusable and cli.UNUSABLE or cli.FAILED
  if options.json then
    print_json(put, {engine = engine_state, version = require("moonfork.load").version, lua = _VERSION, kernel = kernel,
      installation = json.list(parts), problems = json.list(problems), system = json.list(rows)}, report,
      is_safe, err)
    output.flush()
  elseif not interrupt.code and code ~= cli.UNUSABLE then
    if report then
      print_modules(put, paint, report)
      print_findings(put, paint, report)
    end
    put(is_safe and paint("bold", "safe to fork") or paint("red", "not safe to fork"))
    output.flush()
  end
  if interrupt.code then return interrupt.code end
  if err then
    cli.fail(code, "%s%s", plain(err.message), err.code == "TIMEOUT" and "; --timeout S gives it more time" or "")
  end
  return code
end

return command
