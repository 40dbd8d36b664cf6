std = "lua54"
max_line_length = 120
files["lua/moonfork/ffi*.lua"].std = "min+luajit"
files["test/help/other_lua.lua"].std = "min"
files["example/other_lua.lua"].std = "min"
