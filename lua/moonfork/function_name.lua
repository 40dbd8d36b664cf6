-- function_name(name): the value that a function's name stands for, as run resolves it:
-- "module:name" requires the module, anything else is looked up from the globals; dots lead to
-- fields. For the workers of moonfork.lines and moonfork.server.
return function(name)
  local module, field = name:match("^([^:]+):(.+)$")
  local value = module and require(module) or _G
  for key in (field or name):gmatch("[^.]+") do
    value = value[key]
  end
  return value
end
