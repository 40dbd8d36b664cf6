-- hibernate.lua: long work in parts. The function writes itself to a file and leaves; whoever starts
-- this program the next time goes on with it, in the middle of its loops.
--
--   hibernate.lua [FILE]      does three parts of the work, each in a process of its own

local fork = require "moonfork"

local file = arg[1] or os.tmpname()

local function begin()
  return fork.new():eval [[
    local clone = require "moonfork.clone"
    -- The primes below n, with a rest after each 1,000 of them.
    function primes(socket, n, file)
      local found = {}
      local function next_prime()
        for candidate = 2, tonumber(n) do
          local is_prime = true
          for _, p in ipairs(found) do
            if p * p > candidate then break end
            if candidate % p == 0 then is_prime = false break end
          end
          if is_prime then coroutine.yield(candidate) end
        end
      end
      for prime in coroutine.wrap(next_prime) do
        found[#found + 1] = prime
        if #found % 1000 == 0 then
          local how, new_socket = assert(clone.hibernate(file))
          if how == "saved" then
            socket:write(#found, " primes, good night\n")
            return
          end
          socket = new_socket -- the one of before belonged to another process
          socket:write("good morning; the last prime was ", found[#found], "\n")
        end
      end
      socket:write(#found, " primes in all\n")
    end
  ]]:send_arg("20000", file)
end

for part = 1, 3 do
  local process = part == 1 and begin() or fork.load(file)
  local socket = assert(part == 1 and process:run "primes" or process:run())
  print(("process %d: %s"):format(part, socket:read "a"))
  assert(process:wait().code == 0)
end
os.remove(file)
