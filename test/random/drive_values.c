/* drive: good and bad values. */
#include "drive.h"

const char functions[] =
    "function quick() end\n"
    "function hold(s) s:read 'a' end\n"
    "function say(s, ...) s:write('hello', select('#', ...)) end\n"
    "function talk(s) for i = 1, 1000 do s:write(('x'):rep(i)) end end\n"
    "function fails() error 'on purpose' end\n"
    "function exits() os.exit(3) end\n"
    "function spins() local t = os.clock() while os.clock() - t < 0.02 do end end\n"
    "local rpc = require 'moonfork.rpc'\n"
    "function echo(x) return x end\n"
    "function events(x) for i = 1, #x % 50 do rpc.event(x) end return x end\n"
    "function sometimes(x) if #x % 5 == 0 then error('no') end\n"
    "  if #x % 41 == 1 then os.exit(7) end return x end\n";

const char *pick(const char *const *list, uint32_t n) {
  return list[random_below(n)];
}

const char *a_function(void) {
  static const char *const good[] = {"quick", "hold",  "hold",  "say", "talk",
                                     "fails", "exits", "spins", "type"};
  static const char *const bad[] = {"nothing", "",   "no.such.thing", "nomodule:f",
                                    "string:", ":x", "\xff\xfe",      "string:format"};
  return random_one_in(6) ? PICK(bad) : PICK(good);
}

const char *a_service(void) {
  static const char *const list[] = {"echo", "echo", "events", "sometimes", "nothing"};
  return PICK(list);
}

size_t a_size(void) {
  static const uint32_t sizes[] = {1, 10, 1000, 5000, 70000, 300000, 1100000};
  return random_below(sizes[random_below(random_one_in(8) ? 7 : 4)]);
}

unsigned char bytes[1100000];

int a_descriptor(void) { /* borrowed */
  static const int bad[] = {-1, 9999, 1 << 30, -2147483647};
  return random_one_in(4) ? bad[random_below(4)] : (int)random_below(3);
}

const char *some_code(void) {
  static const char *const list[] = {
      "x = 1",
      "x = (x or 0) + 1",
      "return",
      "error 'no'",
      "error {}",
      "syntax error",
      "os.exit(4)",
      "t = {} for i = 1, 20000 do t[i] = {i} end",
      "collectgarbage()",
      "local t = os.clock() while os.clock() - t < 0.01 do end",
      "require 'moonfork.clone'.on_fork(function() y = 1 end)",
      "require 'moonfork.clone'.before_fork(function() return z ~= 1, 'no forks' end)",
      "z = 1",
      "require 'moonfork.clone'.on_fork(function() if z then error 'hook' end end)",
      "string.gsub(('a'):rep(100), '.', print and tostring)",
      ""};
  return PICK(list);
}

static void a_stdio(mf_options *o) {
  static const int kinds[] = {MF_STDIO_INHERIT, MF_STDIO_NULL, MF_STDIO_SOCKET,
                              MF_STDIO_FD};
  for (int i = 0; i < 2; i++) {
    o->stdio[i].kind = kinds[random_below(4)];
    o->stdio[i].fd = random_one_in(10) ? a_descriptor() : 0;
  }
}

static const char *const the_env[] = {"ONE=1", "TWO", "THREE=", NULL};

void some_options(mf_options *o) {
  static const char *const folders[] = {"/", "/tmp", "/no/such/folder", ""};
  mf_options_init(o);
  o->loop = loop;
  o->stdio[2].kind = MF_STDIO_NULL; /* errors of functions are printed there */
  if (random_one_in(4))
    a_stdio(o);
  if (random_one_in(4))
    o->env = the_env;
  if (random_one_in(8))
    o->cwd = PICK(folders);
  if (random_one_in(8))
    o->handles = MF_HANDLES_CLOSE;
  if (random_one_in(8))
    o->new_session = 1;
  if (random_one_in(8))
    o->leash = (int)random_below(2);
  if (random_one_in(4))
    o->tree = (int)random_below(3);
  if (random_one_in(8))
    o->dumpable = (int)random_below(3);
  if (random_one_in(8))
    o->timeout_ms = 1 + random_below(300);
  if (random_one_in(8))
    o->name = "a name";
  if (random_one_in(16)) { /* what no number stands for */
    switch (random_below(5)) {
    case 0:
      o->leash = 17;
      break;
    case 3:
      o->tree = -1;
      break;
    case 1:
      o->handles = -1;
      break;
    case 2:
      o->stdio[0].kind = 99;
      break;
    default:
      o->gc = 1000;
      break;
    }
  }
}
