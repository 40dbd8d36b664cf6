std = "lua54"
max_line_length = 120
files["lua/moonfork/ffi*.lua"].std = "min+luajit"
files["lua/moonfork/option_rules.lua"].std = "min"
files["test/help/other_lua.lua"].std = "min"
files["example/other_lua.lua"].std = "min"
-- Programs that do what programs ought not to do.
files["test/image/programs"] = {globals = {"hop"}, ignore = {"113/v", "2", "3", "4", "5"}}
