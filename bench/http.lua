-- `moonfork bench http`: requests per second of the same hello-world over kept-alive connections.
-- The servers run all the time; the load generator (wrk, one thread) goes from one to the next, so
-- that the machine's moods meet all of them alike. run.lua calls this and has the tools.
--
-- A peer is taken where it is installed, or from the folder in MOONFORK_PEERS, into which
-- `./dev bench` unpacks Debian's packages: installing them would start a server on the machine.
return function(tools)
  local here, process, capture = tools.here, tools.process, tools.process.capture
  local say, number, median = tools.say, tools.number, tools.median
  local peers = os.getenv "MOONFORK_PEERS" or "/no/peers"
  local folder = process.room()
  local WORKERS, CONNECTIONS = 2, {2, 20}
  local seconds, rounds = tools.quick and 1 or 3, tools.quick and 2 or 5
  local port = 20000 + require("moonfork.clone").pid() % 10000

  -- The program, as a command that runs it; nil where there is none.
  local function find(program, path)
    local unpacked = peers .. path
    if capture("test -x " .. unpacked .. " && echo yes") == "yes" then
      local libraries = capture("ls -d " .. peers .. "/usr/lib/*-linux-*")
      return ("env LD_LIBRARY_PATH=%s %s"):format(libraries:gsub("\n", ":"), unpacked)
    end
    local installed = capture("command -v " .. program)
    return installed ~= "" and installed or nil
  end

  local function write(name, text)
    local path = folder .. "/" .. name
    local f = assert(io.open(path, "w"))
    f:write(text)
    f:close()
    return path
  end

  local HELLO = [['function hello() return 200, {["content-type"] = "text/plain"}, "Hello world\n" end' hello]]

  local NGINX = [[
%s
daemon off;
worker_processes %d;
pid %s/nginx.pid;
error_log %s/nginx.log;
events { worker_connections 1024; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path %s/a; proxy_temp_path %s/b; fastcgi_temp_path %s/c; uwsgi_temp_path %s/d;
  scgi_temp_path %s/e;
  lua_package_path "%s/usr/share/lua/5.1/?.lua;;";
  server {
    listen 127.0.0.1:%d;
    location / {
      default_type text/plain;
      content_by_lua_block { ngx.header["content-length"] = 12; ngx.print("Hello world\n") }
    }
  }
}
]]

  local function nginx(at)
    local program = find("nginx", "/usr/sbin/nginx")
    if not program then return nil end
    local modules = capture(("ls -d %s/usr/lib/nginx/modules /usr/lib/nginx/modules"):format(peers))
      :match "[^\n]+" or ""
    if capture("ls " .. modules .. "/ngx_http_lua_module.so") == "" then return nil end
    local loads = ("load_module %s/ndk_http_module.so; load_module %s/ngx_http_lua_module.so;")
      :format(modules, modules)
    local f = folder
    local conf = write("nginx.conf", NGINX:format(loads, WORKERS, f, f, f, f, f, f, f, peers, at))
    return ("%s -p %s -c %s"):format(program, folder, conf)
  end

  local function gunicorn(at)
    local python = ("env PYTHONPATH=%s/usr/lib/python3/dist-packages python3"):format(peers)
    if not process.succeeds(python .. " -c 'import gunicorn'") then return nil end
    return ("%s -m gunicorn -w %d -k gthread --threads 4 --keep-alive 60 -b 127.0.0.1:%d --chdir %s/peer http_app:app")
      :format(python, WORKERS, at, here)
  end

  local function node(at)
    if capture "command -v node" == "" then return nil end
    return ("node %s/peer/http_cluster.js %d %d"):format(here, WORKERS, at)
  end

  local function moonfork(words)
    return function(at)
      return ("%s serve --http%s -n %d --listen 127.0.0.1:%d -e %s")
        :format(tools.program, words, WORKERS, at, HELLO)
    end
  end

  local function async(at)
    return process.succeeds "lua5.4 -e 'require \"luv\"'" and moonfork " --async"(at)
  end

  local contestants = {
    {"nginx", "nginx with Lua", nginx},
    {"moonfork", "moonfork serve --http", moonfork ""},
    {"async", "moonfork serve --http --async", async},
    {"node", "Node.js, cluster", node},
    {"gunicorn", "gunicorn, 2 workers of 4 threads", gunicorn},
  }

  local function start(c)
    c.group = tools.group_new()
    local enter = c.group and ("echo $$ >%s/cgroup.procs; "):format(c.group) or ""
    c.server = process.serve(enter .. "exec " .. c.command)
    c.url = ("http://127.0.0.1:%d/"):format(c.port)
    local ask = ("for i in $(seq 100); do curl -fs %s && exit; sleep 0.1; done"):format(c.url)
    return capture(ask) == "Hello world"
  end

  local function stop(c)
    c.server:stop()
    if c.group then os.remove(c.group) end
  end

  local function measure(c, wrk, connections)
    local cpu = tools.group_cpu(c.group)
    local text = capture(("%s -t1 -c%d -d%ds %s"):format(wrk, connections, seconds, c.url))
    local n, rate = tonumber(text:match "(%d+) requests in"), tonumber(text:match "Requests/sec:%s*([%d.]+)")
    if not n or text:find "Non%-2xx" or text:find "Socket errors" then
      error(c.label .. " did not answer everything:\n" .. text)
    end
    local turns = c.turns[connections]
    turns[#turns + 1] = {rate = rate, cpu = cpu and (tools.group_cpu(c.group) - cpu) / n}
  end

  local function middle(c, connections, field)
    local list = {}
    for _, turn in ipairs(c.turns[connections]) do list[#list + 1] = turn[field] end
    return median(list)
  end

  -- The median of the turns' ratios.
  local function ratio(c, yard, connections, field)
    local list = {}
    for i, turn in ipairs(c.turns[connections]) do
      local other = yard and yard.turns[connections][i]
      if other and turn[field] then list[#list + 1] = turn[field] / other[field] end
    end
    return median(list)
  end

  local wrk, present, without, yard, own = find("wrk", "/usr/bin/wrk"), {}, {}, nil, nil
  if not wrk then
    say("")
    say("HTTP was not measured: wrk is not installed.")
    return
  end
  for i, c in ipairs(contestants) do
    c.key, c.label, c.port = c[1], c[2], port + i
    c.command = c[3](c.port) or nil
    c.turns = {}
    for _, n in ipairs(CONNECTIONS) do c.turns[n] = {} end
    if not c.command then
      without[#without + 1] = c.label .. " (not installed)"
    elseif start(c) then
      present[#present + 1] = c
      if c.key == "nginx" then yard = c elseif c.key == "moonfork" then own = c end
    else
      without[#without + 1] = c.label .. " (it does not answer)"
      stop(c)
    end
  end
  local ok, message = pcall(function()
    for _ = 1, rounds do
      for _, n in ipairs(CONNECTIONS) do
        for _, c in ipairs(present) do measure(c, wrk, n) end
      end
    end
  end)
  for _, c in ipairs(present) do stop(c) end
  if not ok then error(message, 0) end

  say("")
  say("## HTTP: the same hello-world, %d worker processes", WORKERS)
  say("")
  say("Requests per second over kept-alive connections, the load by wrk with one thread on the same machine. " ..
    "Medians of %d turns of %d s; ratios are those of the same turn. CPU: the server's processor time for a request.",
    rounds, seconds)
  say("")
  say("| | 2 connections, requests per second | x nginx | CPU us " ..
    "| 20 connections, requests per second | x nginx | CPU us |")
  say("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
  for _, c in ipairs(present) do
    say("| %s | %.0f | %s | %s | %.0f | %s | %s |", c.label,
      middle(c, 2, "rate"), number(ratio(c, yard, 2, "rate"), "%.2f"), number(middle(c, 2, "cpu"), "%.1f"),
      middle(c, 20, "rate"), number(ratio(c, yard, 20, "rate"), "%.2f"), number(middle(c, 20, "cpu"), "%.1f"))
  end
  if #without > 0 then
    say("")
    say("Left out: %s.", table.concat(without, ", "))
  end
  for _, n in ipairs(CONNECTIONS) do
    tools.goal(("serve --http: requests per second with %d connections, x nginx with Lua"):format(n), "least", 1,
      own and ratio(own, yard, n, "rate") or 0 / 0, "%.2f")
  end
end
