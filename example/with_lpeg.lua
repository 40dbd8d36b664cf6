-- with_lpeg.lua: lpeg and lua-cjson in a template. The grammar is compiled once, there; every
-- worker has it, and turns lines of a log into JSON.

local fork = require "moonfork"

local WORKER = [[
  local lpeg, json = require "lpeg", require "cjson"
  local word, number = lpeg.C((1 - lpeg.S ' "') ^ 1), lpeg.R "09" ^ 1 / math.tointeger
  local line = lpeg.Ct(lpeg.Cg(word, "host") * ' "' * lpeg.Cg(word, "method") * " "
    * lpeg.Cg(word, "path") * '" ' * lpeg.Cg(number, "status"))

  function convert(text)
    local entry = line:match(text) or error("no line of a log: " .. text, 0)
    return json.encode(entry)
  end
]]

local LOG = { '10.0.0.1 "GET /index.html" 200', '10.0.0.2 "GET /nothing" 404', "rotated" }

local pool = fork.new():eval(WORKER):pool "convert"
for i, err, text in pool:map(LOG) do
  print(i, err and err.message or text)
end
pool:close()
