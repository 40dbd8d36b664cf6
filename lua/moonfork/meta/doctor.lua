---@meta moonfork.doctor
-- luacheck: ignore
-- Types for editors (LuaCATS): whether modules may be loaded in a template (doc/doctor.md). See
-- ../meta.lua.

---@class moonfork.doctor_options
---@field timeout? number seconds that a module may take to load (30)
---@field stop? fun(): boolean? asked now and then; true ends the audit

---@class moonfork.doctor_finding: moonfork.finding
---@field requested? string the module that was being loaded when it came

---@class moonfork.doctor_module
---@field name string
---@field seconds number how long it took to load
---@field memory integer bytes by which the resident memory grew
---@field lua integer bytes by which the interpreter grew
---@field threads integer how many more there are
---@field descriptors integer how many more are open

---@class moonfork.doctor_report
---@field safe boolean a fork is not refused
---@field safe_strictly boolean and there is no warning
---@field findings moonfork.doctor_finding[]
---@field modules moonfork.doctor_module[]
---@field fork_seconds? number from the fork of a clone to its function, where that was tried
---@field flat? boolean clones are children of this program itself
---@field stderr string the beginning of what the template printed there

---@class moonfork.doctor_row
---@field name string
---@field state string
---@field text string what follows from it
---@field missing boolean whether something is lost

---@class moonfork.doctor_part
---@field part string
---@field version? string
---@field lua? string the Lua that it is for
---@field path? string
---@field text? string

---@class moonfork.doctor_problem
---@field severity "error"|"warning"|"note"
---@field text string

---@class moonfork.doctor
local doctor = {}

--- Loads the modules in a new template and tells what a fork of it would get wrong.
---@param names string[]
---@param options? moonfork.doctor_options
---@return moonfork.doctor_report?
---@return moonfork.error?
function doctor.audit(names, options) end

--- What this system offers, and the kernel's name.
---@return moonfork.doctor_row[]
---@return string? kernel
function doctor.system() end

--- The parts of this installation, and what is wrong with them.
---@return moonfork.doctor_part[]
---@return moonfork.doctor_problem[]
function doctor.installation() end

return doctor
