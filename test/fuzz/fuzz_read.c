/* libFuzzer: arbitrary bytes for the read of a moonfork.socket. What must hold: the formats
 * give what those of Lua's io give for the same bytes in a file, and the same again where the bytes
 * come in pieces, which the read waits for.
 *
 * The input: how many reads there are, one byte for each, how the bytes are cut, and the
 * bytes. Of a read's byte the low three bits are its kind: see `reading`. */
#undef NDEBUG /* its asserts are the test */
#include "socket/socket_module.h"
#include "socket/wait.h"

#include <assert.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROUNDS = 2000, SENT_MAX = 16384 };

/* f(stream, kinds, has_limit) -> what each read gave. io has neither "0" nor a limit; they
 * are left out where a file is read, and so are its results from there on (second value: how many
 * there are before). */
static const char reading[] =
    "local stream, kinds, is_file = ...\n"
    "local formats, told, alike = {[0] = 'l', 'L', 'a', 'n'}, {}, nil\n"
    "local function tell(...)\n"
    "  local values = table.pack(...)\n"
    "  for i = 1, values.n do\n"
    "    local value = values[i]\n"
    "    if value ~= value then value = 'nan' end\n"
    "    values[i] = (math.type(value) or type(value)) .. ':' .. tostring(value)\n"
    "  end\n"
    "  told[#told + 1] = table.concat(values, '\\n')\n"
    "end\n"
    "for i = 1, #kinds do\n"
    "  local byte = kinds:byte(i)\n"
    "  local kind, n = byte & 7, byte >> 3\n"
    "  if kind > 5 then alike = alike or #told end\n"
    "  if kind < 4 then tell(stream:read(formats[kind]))\n"
    "  elseif kind == 4 then tell(stream:read(n))\n"
    "  elseif kind == 5 then tell(stream:read(formats[n & 3], n >> 2, formats[n & 3]))\n"
    "  elseif is_file then break\n"
    "  elseif kind == 6 then tell(stream:read '0')\n"
    "  else stream:limit(n > 0 and n or nil) end\n"
    "end\n"
    "return told, alike or #told\n";

static lua_State *L;

/* The bytes that are still to be sent, when a read waits. */
static struct {
  const uint8_t *at;
  size_t left;
  uint32_t cuts;
  int fd; /* -1: the end was sent */
} sender;

static void send_some(void) {
  assert(sender.fd >= 0); /* else the read waits for what has come */
  sender.cuts = sender.cuts * 1664525u + 1013904223u;
  size_t n =
      sender.cuts >> 16 & 7 ? 1 + (sender.cuts >> 19 & 7) : 1 + (sender.cuts >> 19 & 511);
  n = n < sender.left ? n : sender.left;
  if (n > 0)
    assert(send(sender.fd, sender.at, n, MSG_NOSIGNAL) == (ssize_t)n);
  sender.at += n;
  sender.left -= n;
  if (n == 0) {
    close(sender.fd);
    sender.fd = -1;
  }
}

/* wait(fd, events, timeout) */
static int wait_for(lua_State *S) {
  const char *events = luaL_checkstring(S, 2);
  if (events[0] != '\0') {
    assert(strcmp(events, "r") == 0);
    send_some();
  }
  lua_pushboolean(S, 1);
  return 1;
}

static void renew_state(void) {
  static int rounds;
  if (L && ++rounds % ROUNDS == 0) {
    lua_close(L);
    L = NULL;
  }
  if (L)
    return;
  L = luaL_newstate();
  assert(L);
  luaL_openlibs(L);
  socket_module_open(L);
  assert(luaL_loadstring(L, reading) == LUA_OK);
  lua_replace(L, 1);
}

/* The stream is on top: takes it. Pushes its results, and gives how many are as of a file. */
static lua_Integer read_stream(const uint8_t *kinds, size_t nkinds, int is_file) {
  lua_pushvalue(L, 1);
  lua_insert(L, -2);
  lua_pushlstring(L, (const char *)kinds, nkinds);
  lua_pushboolean(L, is_file);
  if (lua_pcall(L, 3, 2, 0) != LUA_OK)
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
  lua_Integer alike = lua_tointeger(L, -1);
  lua_pop(L, 1);
  assert(lua_istable(L, -1));
  return alike;
}

static void push_socket(const uint8_t *data, size_t size, uint32_t cuts) {
  int pair[2];
  assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
  socket_push_unix(L, pair[0]);
  sender.at = data;
  sender.left = size;
  sender.cuts = cuts;
  sender.fd = pair[1];
  if (cuts == 0) { /* all of it is there */
    assert(size == 0 || send(sender.fd, data, size, MSG_NOSIGNAL) == (ssize_t)size);
    sender.left = 0;
    send_some();
  }
  lua_pushcfunction(L, wait_for);
  wait_set_function(L);
}

static lua_Integer read_socket(const uint8_t *kinds, size_t nkinds, const uint8_t *data,
                               size_t size, uint32_t cuts) {
  push_socket(data, size, cuts);
  int at = lua_gettop(L);
  lua_pushvalue(L, at);
  lua_Integer alike = read_stream(kinds, nkinds, 0);
  lua_getfield(L, at, "close");
  lua_pushvalue(L, at);
  lua_call(L, 1, 0);
  lua_remove(L, at);
  if (sender.fd >= 0)
    close(sender.fd);
  return alike;
}

/* The lists at a and b have the same first n. */
static void compare(int a, int b, lua_Integer n) {
  for (lua_Integer i = 1; i <= n; i++) {
    lua_geti(L, a, i);
    lua_geti(L, b, i);
    if (!lua_rawequal(L, -1, -2)) {
      fprintf(stderr, "read %d: '%s', and '%s'\n", (int)i, lua_tostring(L, -2),
              lua_tostring(L, -1));
      abort();
    }
    lua_pop(L, 2);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2 || size < 2u + data[0] || size > SENT_MAX)
    return 0;
  const uint8_t *kinds = data + 1, *bytes = kinds + data[0] + 1;
  size_t nkinds = data[0], nbytes = size - 2 - nkinds;
  uint32_t cuts = 1u + kinds[nkinds];
  renew_state();
  FILE *file = tmpfile();
  if (!file)
    return 0;
  luaL_Stream *stream = lua_newuserdatauv(L, sizeof *stream, 0);
  *stream = (luaL_Stream){.f = file, .closef = NULL};
  luaL_setmetatable(L, LUA_FILEHANDLE);
  assert(fwrite(bytes, 1, nbytes, file) == nbytes);
  rewind(file);
  stream->closef = (lua_CFunction)wait_for; /* not NULL: it is open */
  lua_pushvalue(L, -1);
  read_stream(kinds, nkinds, 1);
  stream->closef = NULL;
  fclose(file);
  lua_Integer alike = read_socket(kinds, nkinds, bytes, nbytes, 0);
  read_socket(kinds, nkinds, bytes, nbytes, cuts);
  int cut = lua_gettop(L);
  assert(luaL_len(L, cut) == luaL_len(L, cut - 1));
  compare(cut - 1, cut, luaL_len(L, cut));
  compare(cut - 2, cut - 1, alike);
  lua_settop(L, 1);
  return 0;
}
