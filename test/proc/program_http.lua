-- `moonfork serve --http`: right answers or a clean refusal for whatever a client sends, and no worker
-- held by a client that is slow or says nothing.
local story = require "story"
local kit = story.kit
local program = require "program"
local fork = require "moonfork"
story.census = false

local here = package.searchpath("moonfork.http_core", package.cpath)
local needs = {skip = not here and "built without http_parser" or nil, deadline = 40}

local APP = [[-e 'function app(r)
  if r.path == "/echo" then
    return 200, {["content-type"] = "text/plain"}, r.method .. " " .. r.query .. " " .. r.body
  end
  if r.path == "/headers" then local names = {} for k, v in pairs(r.headers) do names[#names + 1] = k .. "=" .. v end
    table.sort(names) return 200, nil, table.concat(names, "\n") end
  if r.path == "/peer" then return 200, nil, r.peer .. " " .. r.version .. " " .. r.target end
  local n = 0
  if r.path == "/pieces" then
    return 200, nil, function() n = n + 1 if n <= 3 then return ("x"):rep(n) end end
  end
  if r.path == "/large" then
    return 200, nil, function() n = n + 1 if n <= 400 then return ("y"):rep(65536) end end
  end
  if r.path == "/breaks" then
    return 200, nil, function() n = n + 1 if n == 2 then error "in the middle" end return "a" end
  end
  if r.path == "/unchanged" then return 304, nil, function() return "never" end end
  if r.path == "/cookies" then return 204, {["Set-Cookie"] = {"a=1", "b=2"}} end
  if r.path == "/raises" then error "it is broken" end
  if r.path == "/nothing" then return end
  if r.path == "/status" then return 99 end
  if r.path == "/split" then return 200, {x = "a\r\nInjected: yes"}, "" end
  if r.path == "/name" then return 200, {["bad name"] = "a"}, "" end
  if r.path == "/body" then return 200, nil, {} end
  if r.path == "/pid" then return 200, nil, tostring(require("moonfork.clone").pid()) end
  return 404, nil, "no\n"
end' app]]

local port, running
local function connect()
  local socket = assert(fork.socket.connect("127.0.0.1:" .. port))
  socket:settimeout(10 * story.scale)
  return socket
end

-- One response: status line, headers (lower case), body.
local function read_response(socket, is_head)
  local line = socket:read "l"
  if not line then return nil end
  local status, headers = line:match "^HTTP/1%.1 (%d+) ", {}
  for field in socket:lines() do
    field = field:gsub("\r$", "")
    if field == "" then break end
    local name, value = field:match "^([^:]+): (.*)$"
    headers[name:lower()] = value
  end
  local body = ""
  if not is_head and headers["transfer-encoding"] == "chunked" then
    local parts = {}
    while true do
      local size = tonumber(socket:read "l" or "", 16)
      if not size then return tonumber(status), headers, nil end
      if size > 0 then parts[#parts + 1] = socket:read(size) end
      socket:read "l"
      if size == 0 then break end
    end
    body = table.concat(parts)
  elseif not is_head and headers["content-length"] and headers["content-length"] ~= "0" then
    body = socket:read(tonumber(headers["content-length"]))
  end
  return tonumber(status), headers, body
end

local function request(text, is_head)
  local socket = connect()
  socket:write(text)
  local status, headers, body = read_response(socket, is_head)
  socket:close()
  return status, headers, body
end

local function get(path)
  return request("GET " .. path .. " HTTP/1.1\r\nHost: x\r\n\r\n")
end

local function start(t, words)
  running = program.start(t, ("serve --http --log text --listen 127.0.0.1:0 %s %s"):format(words, APP))
  t.outside(15, function() return running.out():find " ready " or running:ended() end)
  if not running.out():find " ready " then t.fail("it did not start:\n%s", running.err()) end
  port = running.out():match " listen=127%.0%.0%.1:(%d+)"
end

local function stop(t)
  running:kill(kit.SIGTERM)
  t.eq(running:wait(), 143)
end

local function test(name, words, f)
  story.test(name, needs, function(t)
    start(t, words)
    local ok, err = pcall(f, t)
    if not ok then running:kill(kit.SIGKILL) error(err, 0) end
    stop(t)
  end)
end

test("requests and answers", "-n 1", function(t)
  local status, headers, body = get "/echo?a=1&b"
  t.eq({status, body}, {200, "GET a=1&b "})
  t.eq(headers["content-type"], "text/plain")
  t.eq(headers["content-length"], tostring(#body))
  t.match(headers.date, "^%a%a%a, %d%d %a%a%a %d%d%d%d %d%d:%d%d:%d%d GMT$")
  t.eq(headers.connection, nil)
  t.eq(select(3, request "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"), "POST  hello")
  t.eq(select(3, request("PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" ..
    "3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\nTrailer: x\r\n\r\n")), "PUT  abcde")
  t.eq(select(3, request("GET /headers HTTP/1.1\r\nHost: x\r\nX-One:  1 \r\nx-two: a\r\nX-TWO: b\r\n" ..
    "Cookie: c=1\r\nCookie: d=2\r\n\r\n")), "cookie=c=1; d=2\nhost=x\nx-one=1\nx-two=a, b")
  t.match(select(3, get "/peer?q"), "^127%.0%.0%.1:%d+ 1%.1 /peer%?q$")
  -- As a proxy is asked: the host of the target counts.
  t.eq(select(3, request "GET http://there:81/echo?a HTTP/1.1\r\nHost: x\r\n\r\n"), "GET a ")
  t.eq(select(3, request "GET http://there:81/headers HTTP/1.1\r\nHost: x\r\n\r\n"), "host=there:81")
  t.match(select(3, get "/peer?u=http://a/b"), " 1%.1 /peer%?u=http://a/b$")
  t.match(select(3, request "GET http://there/peer HTTP/1.2\r\nHost: x\r\n\r\n"), " 1%.1 http://there/peer$")
  t.eq(request "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404)
  t.eq(request "GET /echo HTTP/1.1\nHost: x\n\n", 200) -- RFC 9112, 2.2: may be taken for a line's end
  -- What a proxy has looked at are the headers; the trailer was not there yet.
  t.eq(select(3, request("PUT /headers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" ..
    "0\r\nHost: y\r\nA: b\r\nContent-Length: 3\r\n\r\n")), "host=x\ntransfer-encoding=chunked")
  t.eq(request("GET /echo HTTP/1.1\r\nHost: x\r\n" .. ("a: b\r\n"):rep(127) .. "\r\n"), 200)
  t.eq(request("GET /echo HTTP/1.1\r\nHost: x\r\nA: " .. ("a"):rep(60000) .. "\r\n\r\n"), 200)
  t.eq(get "/other", 404)
  status, headers, body = request("HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n", true)
  t.eq({status, headers["content-length"], body}, {200, "6", ""})
  status, headers, body = request("HEAD /pieces HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", true)
  t.eq({status, headers["transfer-encoding"], body}, {200, "chunked", ""})
  status, headers, body = get "/cookies"
  t.eq({status, headers["set-cookie"], headers["content-length"], body}, {204, "b=2", nil, ""})
end)

test("a body that is a function", "-n 1", function(t)
  local status, headers, body = get "/pieces"
  t.eq({status, headers["transfer-encoding"], body}, {200, "chunked", "xxxxxx"})
  local socket = connect()
  socket:write "GET /pieces HTTP/1.0\r\n\r\n"
  t.match(socket:read "a", "^HTTP/1.1 200 OK\r\n.*Connection: close\r\n\r\nxxxxxx$")
  socket:close()
  t.eq(select(3, get "/breaks"), nil) -- no last chunk
  t.outside(5, function() return running.err():find "in the middle" end)
  -- 26 MB for a client that reads slowly: others are answered, and the worker keeps little of it.
  local slow = connect()
  slow:write "GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
  slow:read(1000)
  t.eq(get "/echo", 200)
  local pid = select(3, get "/pid")
  local rss = tonumber(t.read("/proc/" .. pid .. "/status"):match "VmRSS:%s*(%d+)")
  if story.scale == 1 then t.ok(rss < 20000, rss .. " KiB") end
  local rest = 0
  slow:settimeout(10 * story.scale)
  while rest < 400 * 65536 - 1000 do rest = rest + #t.got(slow:read(65536)) end
  slow:close()
end)

test("one connection, many requests", "-n 1", function(t)
  local socket = connect()
  for i = 1, 20 do
    socket:write("GET /echo?", i, " HTTP/1.1\r\nHost: x\r\n\r\n")
    local status, _, body = read_response(socket)
    t.eq({status, body}, {200, "GET " .. i .. " "})
  end
  local text = {} -- pipelined, also across reads
  for i = 1, 50 do
    text[i] = ("POST /echo?%d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"):format(i)
  end
  text = table.concat(text)
  socket:write(text:sub(1, 777))
  kit.msleep(20)
  socket:write(text:sub(778))
  for i = 1, 50 do
    local status, _, body = read_response(socket)
    t.eq({status, body}, {200, "POST " .. i .. " abc"})
  end
  -- More than are answered by one write, and the beginning of one that is completed later.
  local more = {}
  for i = 1, 100 do more[i] = ("GET /echo?%d HTTP/1.1\r\nHost: x\r\n\r\n"):format(i) end
  socket:write(table.concat(more), "GET /echo?last HTTP/1.1\r\nHo")
  for i = 1, 100 do t.eq(select(3, read_response(socket)), "GET " .. i .. " ") end
  socket:write "st: x\r\n\r\n"
  t.eq(select(3, read_response(socket)), "GET last ")
  -- Many, in pieces that end anywhere, by a client that shuts its side behind them.
  local flood = connect()
  more = {}
  for i = 1, 1000 do
    more[i] = ("POST /echo?%d HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n%04d"):format(i, i)
  end
  text = table.concat(more)
  for at = 1, #text, 9973 do flood:write(text:sub(at, at + 9972)) end
  flood:shutdown "write"
  for i = 1, 1000 do
    if select(3, read_response(flood)) ~= ("POST %d %04d"):format(i, i) then t.fail("answer %d is wrong", i) end
  end
  t.eq(flood:read "a", "")
  flood:close()
  -- The one that is refused comes behind the answers to those before it.
  local refused = connect()
  refused:write(more[1], more[2], "nonsense\r\n\r\n", more[3])
  t.eq(select(3, read_response(refused)), "POST 1 0001")
  t.eq(select(3, read_response(refused)), "POST 2 0002")
  t.eq(read_response(refused), 400)
  t.eq(refused:read "a", "")
  refused:close()
  socket:write "GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /echo HTTP/1.1\r\n"
  local status, headers = read_response(socket)
  t.eq({status, headers.connection}, {200, "close"})
  t.eq(socket:read "a", "")
  socket:close()
  -- An upgrade is not taken, and the connection goes on.
  socket = connect()
  socket:write("POST /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
    "GET /echo?then HTTP/1.1\r\nHost: x\r\n\r\n")
  t.eq(select(3, read_response(socket)), "POST  abc")
  t.eq(select(3, read_response(socket)), "GET then ")
  -- The same when the body comes later.
  socket:write("POST /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n" ..
    "Expect: 100-continue\r\n\r\n")
  t.eq(socket:read "l", "HTTP/1.1 100 Continue\r")
  t.eq(socket:read "l", "\r")
  socket:write "abc"
  t.eq(select(3, read_response(socket)), "POST  abc")
  -- A function for a body that is not sent does not end the connection.
  for _ = 1, 2 do
    socket:write "GET /unchanged HTTP/1.1\r\nHost: x\r\n\r\n"
    t.eq(read_response(socket, true), 304)
  end
  socket:close()
  socket = connect()
  socket:write "GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
  status, headers = read_response(socket)
  t.eq({status, headers.connection}, {200, "keep-alive"})
  socket:write "GET /echo HTTP/1.0\r\n\r\n"
  t.eq(read_response(socket), 200)
  t.eq(socket:read "a", "")
  socket:close()
end)

test("a byte at a time, and what one worker does meanwhile", "-n 1", function(t)
  local silent, idle = {}, {}
  for i = 1, 40 do
    silent[i] = connect()
    idle[i] = connect()
    idle[i]:write "GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"
    t.eq(read_response(idle[i]), 200)
  end
  local slow = connect()
  for c in ("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok"):gmatch "." do
    slow:write(c)
    t.eq(get "/echo", 200)
  end
  t.eq(select(3, read_response(slow)), "POST  ok")
  for i = 1, 40 do
    silent[i]:close()
    idle[i]:close()
  end
end)

test("expectations", "-n 1", function(t)
  local socket = connect()
  socket:write "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
  t.eq(socket:read "l", "HTTP/1.1 100 Continue\r")
  t.eq(socket:read "l", "\r")
  socket:write "ok"
  t.eq(select(3, read_response(socket)), "POST  ok")
  socket:close()
  t.eq(request "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: more\r\n\r\n", 417)
end)

local function chunked(fields, body)
  return "POST / HTTP/1.1\r\nHost: x\r\n" .. (fields or "Transfer-Encoding: chunked") .. "\r\n\r\n" .. body
end

test("what is refused", "-n 1", function(t)
  for _, case in ipairs{
    {"nonsense\r\n\r\n", 400}, {"GET / HTTP/1.1\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\r\nbad name: x\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400},
    {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
    {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 505}},
    {"GET / HTTP/1.1\r\nHost: x\r\nX: " .. ("y"):rep(1 << 20) .. "\r\n\r\n", 431},
    {"GET /" .. ("y"):rep(100000) .. " HTTP/1.1\r\nHost: x\r\n\r\n", {414, 431}},
    {"GET / HTTP/1.1\r\nHost: x\r\n" .. ("a: b\r\n"):rep(1000) .. "\r\n", 431},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413},
    {"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" ..
      ("80000\r\n" .. ("z"):rep(0x80000) .. "\r\n"):rep(17), 413},
    {"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501},
    {"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400}, {"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400}, {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400}, {"GET / HTTP/1.1\r\n Host: x\r\n\r\n", 400},
    {"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", 400}, {"GET / HTTP/1.1\r\nHost: x\r\nA: b\rC: d\r\n\r\n", 400},
    {"HTTP/1.1 200 OK\r\n\r\n", 400}, {"GET /\r\n\r\n", {400, 505}},
    {"GET / HTTP/1.1\r\nHost: x\r\n" .. ("a: b\r\n"):rep(128) .. "\r\n", 431}, -- 129
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n 3\r\n\r\nabc", 400},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc", 400},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc", 400},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\nabc", 400},
    {chunked("Transfer-Encoding: chunked\r\nContent-Length: 3", "0\r\n\r\n"), 400},
    {chunked("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), 501},
    {chunked("Transfer-Encoding: chunked, gzip", "0\r\n\r\n"), 501},
    {chunked("Transfer-Encoding: xchunked", "0\r\n\r\n"), 501},
    {chunked("Transfer-Encoding: \vchunked", "0\r\n\r\n"), 400},
    {chunked("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"), 400},
    {chunked("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n"), 400},
    {chunked("Transfer-Encoding : chunked", "0\r\n\r\n"), 400},
    {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
    {chunked(nil, "ffffffffffffffff\r\nabc"), 400}, {chunked(nil, "1ffffffffffffffffff\r\nabc"), 400},
    {chunked(nil, "7fffffff\r\nabc"), 413}, {chunked(nil, "-3\r\nabc\r\n0\r\n\r\n"), 400},
    {chunked(nil, "0x3\r\nabc\r\n0\r\n\r\n"), 400}, {chunked(nil, "3\nabc\n0\n\n"), 400},
    {chunked(nil, "3\r\nabcd\r\n0\r\n\r\n"), 400},
    -- An LF that ends no line here and does elsewhere: in an extension, of each chunk.
    {chunked(nil, "3;a\nabc\r\n0\r\n\r\n"), 400}, {chunked(nil, "3;a\n\r\nabc\r\n0\r\n\r\n"), 400},
    {chunked(nil, "3;a\r\nabc\r\n0;b\n\r\n\r\n"), 400}, {chunked(nil, "3\r\nabc\r\n2 ;\n\r\nab\r\n0\r\n\r\n"), 400},
    -- Line ends that http_parser does not look at, and others do.
    {chunked(nil, "3\r\nabcX\n0\r\n\r\n"), 400},
    {chunked(nil, "3\r\nabcXY0\r\n\r\n"), 400}, {chunked(nil, "3\r\nabc\rY0\r\n\r\n"), 400},
    {chunked(nil, "3\rXabc\r\n0\r\n\r\n"), 400}, {chunked(nil, "3;\0\r\nabc\r\n0\r\n\r\n"), 400},
    {chunked(nil, "3\r\nabc\r\n0\r\nT: x\rY: z\r\n\r\n"), 400}, {chunked(nil, "0\r\n\rX"), 400},
    {"GET / HTTP/1.1\r\nHost: x\r\n\rX", 400}, {"GET / HTTP/1.1\r\nHost: x\r\nA:\rXb\r\n\r\n", 400},
    {"\rGET / HTTP/1.1\r\nHost: x\r\n\r\n", 400}, {"GET / HTTX/1.1\r\nHost: x\r\n\r\n", 400},
    {"GET /a\tb HTTP/1.1\r\nHost: x\r\n\r\n", 400}, {"GET / HTTP/1.1\r\nHost: x\r\nA: \0b\r\n\r\n", 400},
    {chunked(nil, "\1543\r\nabc\r\n0\r\n\r\n"), 400}, {chunked(nil, "3\r\nabc\r\n\128\r\n\r\n"), 400},
    {chunked(nil, "0\r\nA:\0b\r\n\r\n"), 400}, {chunked(nil, "0\r\nA b: c\r\n\r\n"), 400},
    -- A folded line, which some take for a part of the field before it, and others for a field.
    {"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400}, {"GET / HTTP/1.1\r\nHost:\r\n x\r\n\r\n", 400},
    {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n 3\r\n\r\nabc", 400},
    {chunked("Transfer-Encoding:\r\n\tchunked", "0\r\n\r\n"), 400},
    {chunked(nil, "3;" .. ("a"):rep(1 << 20) .. "\r\nabc\r\n0\r\n\r\n"), 431},
    {chunked(nil, "3\r\nabc\r\n0\r\n" .. ("T: x\r\n"):rep(1000) .. "\r\n"), 431},
  } do
    local socket = connect()
    socket:write(case[1])
    local status, headers, body = read_response(socket)
    local expected = type(case[2]) == "table" and case[2] or {case[2]}
    t.ok(status and (status == expected[1] or status == expected[2]),
      ("%s: %s"):format(case[1]:sub(1, 60), tostring(status)))
    t.eq(headers.connection, "close")
    t.match(body, "^" .. status .. " ")
    socket:close()
    t.eq(get "/echo", 200)
  end
end)

test("a chunked request cut at each place, and one behind it", "-n 1", function(t)
  local text = "PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    .. "3;e=1\r\na\nb\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n"
  local next_text = "GET /echo?next HTTP/1.1\r\nHost: x\r\n\r\n"
  local socket = connect()
  for at = #text - 50, #text do
    socket:write(text:sub(1, at))
    kit.msleep(1) -- they may still come as one, and must be the same
    socket:write(text:sub(at + 1) .. next_text)
    t.eq(select(3, read_response(socket)), "PUT  a\nbde", at)
    t.eq(select(3, read_response(socket)), "GET next ", at)
  end
  socket:close()
  socket = connect()
  for byte in text:gmatch "%Z" do socket:write(byte) end
  t.eq(select(3, read_response(socket)), "PUT  a\nbde")
  socket:close()
end)

test("the bodies of all connections together have a limit", "-n 1 --max-bodies 100K", function(t)
  local head = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
  local held = {}
  for i = 1, 2 do -- each is let in, and waits for its end
    held[i] = connect()
    held[i]:write(head:format(40001), ("x"):rep(40000))
  end
  t.outside(10, function() -- once these have been read
    local status, headers = request(head:format(30000) .. ("x"):rep(30000))
    if status == 200 then return false end
    t.eq({status, headers.connection}, {503, "close"})
    return true
  end)
  t.eq(request(head:format(5) .. "hello"), 200)
  held[1]:write "x"
  t.eq((read_response(held[1])), 200)
  held[2]:close()
  t.outside(10, function() return request(head:format(90000) .. ("x"):rep(90000)) == 200 end)
  held[1]:close()
end)

test("a function that is wrong", "-n 1", function(t)
  for path, message in pairs{["/raises"] = "it is broken", ["/nothing"] = "no status",
    ["/status"] = "did not return a status", ["/split"] = "value that can't be sent",
    ["/name"] = "no name of a header", ["/body"] = "neither a string nor a function"} do
    local status, headers, body = get(path)
    t.eq({status, body}, {500, "500 Internal Server Error\n"}, path)
    t.eq(headers.injected, nil)
    t.outside(5, function() return running.err():find(message, 1, true) end, path)
  end
end)

test("a reload while connections are kept alive, and a drain", "-n 2", function(t)
  local idle = connect()
  idle:write "GET /pid HTTP/1.1\r\nHost: x\r\n\r\n"
  local pid = select(3, read_response(idle))
  running:kill(kit.SIGHUP)
  t.outside(10, function()
    t.eq(get "/echo", 200)
    return running.out():find("ended pid=" .. pid .. " ")
  end)
  t.eq(idle:read "a", "") -- closed between two requests
  idle:close()
  -- A connection that is new, and one that is active: each request is answered, and the last answer
  -- tells that the connection ends.
  local fresh, active = connect(), connect()
  active:write "GET /pid HTTP/1.1\r\nHost: x\r\n\r\n"
  pid = select(3, read_response(active))
  running:kill(kit.SIGHUP)
  t.outside(10, function() return select(2, running.out():gsub(" reloaded ", "")) == 2 end)
  for _, socket in ipairs{fresh, active} do
    t.outside(10, function()
      socket:write "GET /pid HTTP/1.1\r\nHost: x\r\n\r\n"
      local status, headers, body = read_response(socket)
      t.eq(status, 200)
      if socket == active then t.eq(body, pid) end
      return headers.connection == "close"
    end)
    t.eq(socket:read "a", "")
    socket:close()
  end
  -- A request that is half there when its worker learns of the drain: what another connection of that
  -- worker gets tells that it has read the half, and then that it has learnt.
  local half, beside = connect(), nil
  local function pid_of(socket)
    socket:write "GET /pid HTTP/1.1\r\nHost: x\r\n\r\n"
    return select(3, read_response(socket))
  end
  pid = pid_of(half)
  t.outside(10, function()
    beside = connect()
    if pid_of(beside) == pid then return true end
    beside:close()
  end)
  half:write "GET /echo HTTP/1.1\r\nHos"
  t.eq(pid_of(beside), pid)
  running:kill(kit.SIGTERM)
  t.eq(beside:read "a", "")
  beside:close()
  half:write "t: x\r\n\r\n"
  local status, headers = read_response(half)
  t.eq({status, headers.connection}, {200, "close"})
  half:close()
end)

test("--max-requests and --timeout", "-n 1 --max-requests 7 --timeout 5", function(t)
  local seen, n = {}, 0
  for _ = 1, 40 do
    local pid = t.ok(select(3, get "/pid"))
    if not seen[pid] then n = n + 1 end
    seen[pid] = true
  end
  t.ok(n >= 4, n .. " workers\n" .. running.out())
end)

story.done()
