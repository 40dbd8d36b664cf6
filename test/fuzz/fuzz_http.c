/* libFuzzer: arbitrary bytes from the client of `moonfork serve --http`. The whole of
 * moonfork.http_core runs, above a kernel of this program's (http_kernel.c), so every run
 * is the same. What must hold: no crash, no leak, no endless loop, every bound; each request that
 * the function gets is what a second, strict reading finds at that place (http_strict.c),
 * so nothing is smuggled; a plain request is not refused; the answers are
 * well-formed and as many as the requests, with one refusal at the end at most; and all of it is
 * the same however the bytes are cut and however slowly the client reads, but for the
 * reason of a refusal (a head may be too large and broken).
 *
 * The input: three bytes that say how, and the bytes of the client, in which FF n c stands
 * for 256 * n bytes c. Byte 0: bit 0, functions may be suspended (--async); bit 1, the
 * client waits at its end instead of closing; bit 2, a third run in which the client
 * vanishes; bit 3, the worker ends with its third request; bit 4, signals interrupt the
 * waits of the second run. Bytes 1 and 2: how the second run cuts what the client sends and
 * what it reads. The first letter of a path says what is answered: see `answers`. */
#undef NDEBUG /* its asserts are the test */
#include "http_kernel.h"
#include "http_strict.h"
#include "serve/row.h"

#include <assert.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int luaopen_moonfork_http_core(lua_State *L);

enum { STREAM_MAX = 1 << 18, BODY_MAX = 4000, FIELDS_MAX = 128, ROUNDS = 500 };

struct how {
  int is_async, is_silent, vanishes, ends_early, is_interrupted;
  uint32_t cuts, writes;
};

/* What the function answers to a path that begins with this letter. */
struct answer {
  int status;
  int is_cut;   /* the body does not come to its end */
  int is_async; /* needs coroutines; else it is the usual answer */
};

static const struct answer answers[256] = {
    ['i'] = {200, 0, 0}, /* pieces */
    ['b'] = {200, 1, 0}, /* pieces, and an error */
    ['w'] = {200, 1, 0}, /* pieces, and one that is none */
    ['g'] = {200, 0, 0}, /* many pieces */
    ['l'] = {200, 0, 0}, /* a long string */
    ['h'] = {200, 0, 0}, /* headers */
    ['k'] = {204, 0, 0}, /* no body, although one is given */
    ['m'] = {304, 0, 0}, /* the same, by a function */
    ['r'] = {500, 0, 0}, /* raises */
    ['n'] = {500, 0, 0}, /* returns nothing */
    ['s'] = {500, 0, 0}, /* a status that is none */
    ['j'] = {500, 0, 0}, /* a header with a line end */
    ['t'] = {500, 0, 0}, /* a body that is a table */
    ['a'] = {200, 0, 1}, /* suspended, then the usual answer */
    ['c'] = {500, 0, 1}, /* suspended, then raises */
    ['d'] = {503, 0, 1}, /* suspended until its time limit */
    ['p'] = {200, 0, 1}, /* pieces that are suspended */
    ['q'] = {200, 1, 1}, /* a piece that is suspended until the time limit */
};

static const struct answer usual = {200, 0, 0};

static lua_State *L;
static struct how how;
static int requests; /* of this run: reference to the list of their tables */
static size_t nrequests, nrefused;  /* functions that failed */
static void *connection, *waiting;  /* of the last request; whose function is suspended */
static int waiting_request, waited; /* its table; how often it was looked at */
static char waiting_letter;
static int64_t row[ROW_CELLS];

static struct answer answer_to(char letter) {
  struct answer a = answers[(unsigned char)letter];
  return a.status == 0 || (a.is_async && !how.is_async) ? usual : a;
}

static char letter_of(int request) {
  lua_getfield(L, request, "path");
  const char *path = lua_tostring(L, -1);
  char letter = path[0] == '/' ? path[1] : '\0';
  lua_pop(L, 1);
  return letter;
}

/* ---- what http_core calls ---- */

static void suspend(char letter, int request) {
  assert(waiting == NULL);
  waiting = connection;
  waiting_letter = letter;
  waiting_request = request;
  waited = 0;
}

static void push_many(lua_State *S, char ch, size_t n) {
  luaL_Buffer b;
  memset(luaL_buffinitsize(S, &b, n), ch, n);
  luaL_pushresultsize(&b, n);
}

/* A body: upvalues: the letter, how often it was called. */
static int next_piece(lua_State *S) {
  const char letter = (char)lua_tointeger(S, lua_upvalueindex(1));
  lua_Integer n = lua_tointeger(S, lua_upvalueindex(2)) + 1;
  lua_pushinteger(S, n);
  lua_replace(S, lua_upvalueindex(2));
  if (letter == 'b' && n == 3)
    return luaL_error(S, "in the middle");
  if ((letter == 'p' && n % 2 == 0) || (letter == 'q' && n == 2)) {
    suspend(letter, LUA_NOREF);
    lua_pushboolean(S, 0);
  } else if (letter == 'w' && n == 2)
    lua_newtable(S);
  else if (n > 5)
    lua_pushnil(S);
  else if (letter == 'g')
    push_many(S, 'g', 40000);
  else
    lua_pushlstring(S, "abcdefgh", (size_t)n % 4); /* the fourth is empty */
  return 1;
}

static void push_pieces(char letter) {
  lua_pushinteger(L, letter);
  lua_pushinteger(L, 0);
  lua_pushcclosure(L, next_piece, 2);
}

/* Pushes status, headers, body. */
static void push_answer(char letter, int request) {
  lua_pushinteger(L, letter == 's' ? 99 : answer_to(letter).status);
  if (letter == 'h' || letter == 'j') {
    lua_newtable(L);
    lua_pushstring(L, letter == 'j' ? "a\r\nInjected: yes" : "a b");
    lua_setfield(L, -2, "X-One");
    lua_pushliteral(L, "12345");
    lua_setfield(L, -2, "Content-Length");
    lua_createtable(L, 2, 0);
    lua_pushliteral(L, "a=1");
    lua_rawseti(L, -2, 1);
    lua_pushliteral(L, "b=2");
    lua_rawseti(L, -2, 2);
    lua_setfield(L, -2, "Set-Cookie");
  } else {
    lua_pushnil(L);
  }
  if (strchr("ibwgm", letter) || (how.is_async && strchr("pq", letter))) {
    push_pieces(letter);
  } else if (letter == 't') {
    lua_newtable(L);
  } else if (letter == 'l') {
    push_many(L, 'l', 150000);
  } else {
    lua_getfield(L, request, "method");
    lua_getfield(L, request, "body");
    lua_concat(L, 2);
  }
}

/* call(request, connection) */
static int call(lua_State *S) {
  assert(S == L && lua_gettop(L) == 2 && waiting == NULL);
  lua_rawgeti(L, LUA_REGISTRYINDEX, requests);
  lua_pushvalue(L, 1);
  lua_rawseti(L, -2, (lua_Integer)++nrequests);
  lua_pop(L, 1);
  connection = lua_touserdata(L, 2);
  char letter = letter_of(1);
  if (letter == '\0' || (answers[(unsigned char)letter].is_async && !how.is_async))
    letter = '-';
  if (strchr("acd", letter)) {
    lua_pushvalue(L, 1);
    suspend(letter, luaL_ref(L, LUA_REGISTRYINDEX));
    lua_pushboolean(L, 0);
    return 1;
  }
  if (letter == 'r')
    return luaL_error(L, "raised");
  if (letter == 'n')
    return 0;
  push_answer(letter, 1);
  return 3;
}

static int traceback(lua_State *S) {
  lua_settop(S, 1);
  return 1;
}

static int failed(lua_State *S) {
  assert(lua_type(S, 1) == LUA_TSTRING);
  nrefused++;
  return 0;
}

static int tick(lua_State *S) {
  lua_pushboolean(S, 0);
  return 1;
}

static int coroutines(lua_State *S) {
  waited++;
  lua_pushinteger(S, waiting && !strchr("dq", waiting_letter) ? 10 : -1);
  return 1;
}

/* result(): what is suspended goes on, from its second turn on. */
static int result(lua_State *S) {
  assert(S == L);
  if (!waiting || waited < 2 || strchr("dq", waiting_letter))
    return 0;
  lua_pushlightuserdata(L, waiting);
  waiting = NULL;
  if (waiting_letter == 'p')
    return 1;
  lua_pushboolean(L, waiting_letter != 'c');
  lua_rawgeti(L, LUA_REGISTRYINDEX, waiting_request);
  luaL_unref(L, LUA_REGISTRYINDEX, waiting_request);
  if (waiting_letter == 'c')
    lua_pushliteral(L, "raised later");
  else
    push_answer('-', lua_gettop(L));
  return waiting_letter == 'c' ? 4 : 6;
}

static int forget(lua_State *S) {
  assert(waiting != NULL && lua_touserdata(S, 1) == waiting);
  luaL_unref(S, LUA_REGISTRYINDEX, waiting_request);
  waiting = NULL;
  return 0;
}

/* ---- one run ---- */

static void set_function(const char *name, lua_CFunction f) {
  lua_pushcfunction(L, f);
  lua_setfield(L, -2, name);
}

static void set_integer(const char *name, lua_Integer n) {
  lua_pushinteger(L, n);
  lua_setfield(L, -2, name);
}

static void push_options(void) {
  lua_newtable(L);
  set_function("call", call);
  set_function("traceback", traceback);
  set_function("failed", failed);
  set_function("tick", tick);
  set_integer("control", HTTP_CONTROL);
  set_integer("body_max", BODY_MAX);
  set_integer("bodies_max", BODY_MAX + BODY_MAX / 2);
  set_integer("max_requests", how.ends_early ? 3 : -1);
  lua_pushlightuserdata(L, row);
  lua_setfield(L, -2, "row");
  lua_createtable(L, 1, 0);
  lua_pushinteger(L, HTTP_LISTENER);
  lua_rawseti(L, -2, 1);
  lua_setfield(L, -2, "listeners");
  if (!how.is_async)
    return;
  set_function("coroutines", coroutines);
  set_function("result", result);
  set_function("forget", forget);
  set_integer("coroutines_fd", HTTP_COROUTINES);
  set_integer("timeout", 1);
}

/* The requests are in the list `requests` afterwards. */
static void serve(struct http_kernel *kernel) {
  int top = lua_gettop(L);
  lua_newtable(L);
  requests = luaL_ref(L, LUA_REGISTRYINDEX);
  nrequests = nrefused = 0;
  memset(row, 0, sizeof row);
  lua_getfield(L, LUA_REGISTRYINDEX, "serve");
  push_options();
  http_kernel_set(kernel);
  int rc = lua_pcall(L, 1, 0, 0);
  http_kernel_set(NULL);
  if (rc != LUA_OK)
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
  assert(rc == LUA_OK && lua_gettop(L) == top);
  assert(!kernel->is_open && waiting == NULL);
  assert(row[ROW_OPEN] == 0 && row[ROW_BUSY] == 0);
  assert((size_t)row[ROW_REQUESTS] <= nrequests);
}

/* ---- what must hold ---- */

static const char *stream;
static size_t stream_size;

static void fail(size_t n, const char *what) {
  http_kernel_set(NULL);
  fprintf(stderr, "request %zu: %s\n", n, what);
  abort();
}

/* The field of the table on top. */
static int is_field(const char *name, struct strict_text text) {
  size_t size;
  lua_getfield(L, -1, name);
  const char *value = lua_tolstring(L, -1, &size);
  int is = value && size == text.size && (size == 0 || memcmp(value, text.at, size) == 0);
  lua_pop(L, 1);
  return is;
}

/* The header of that name: the values in order, joined. */
static int is_header(const struct strict_request *r, size_t first, size_t *ret_n) {
  static char expected[2 * STREAM_MAX], name[STREAM_MAX];
  struct strict_text key = r->fields[first].name;
  size_t size = 0, n = 0;
  for (size_t i = 0; i < key.size; i++)
    name[i] = (char)(key.at[i] >= 'A' && key.at[i] <= 'Z' ? key.at[i] | 0x20 : key.at[i]);
  name[key.size] = '\0';
  for (size_t i = 0; i < r->nfields; i++) {
    if (!strict_is(r->fields[i].name, name))
      continue;
    if (i < first)
      return 1; /* was looked at */
    const char *joint = strcmp(name, "cookie") == 0 ? "; " : ", ";
    if (n++ > 0) {
      memcpy(expected + size, joint, 2);
      size += 2;
    }
    memcpy(expected + size, r->fields[i].value.at, r->fields[i].value.size);
    size += r->fields[i].value.size;
  }
  ++*ret_n;
  int is_same = is_field(name, (struct strict_text){expected, size});
  if (!is_same)
    fprintf(stderr, "%s: '%.*s' expected\n", name, (int)size, expected);
  return is_same;
}

static void check_headers(size_t number, const struct strict_request *r) {
  size_t nnames = 0, n = 0;
  int has_host = 0;
  lua_getfield(L, -1, "headers");
  for (size_t i = 0; i < r->nfields; i++) {
    int is_host = strict_is(r->fields[i].name, "host");
    has_host |= is_host;
    if (is_host && r->target.at[0] != '/') /* that of the target may count */
      nnames++;
    else if (!is_header(r, i, &nnames))
      fail(number, "another header");
  }
  for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1), n++)
    if (!has_host && strcmp(lua_tostring(L, -2), "host") == 0)
      nnames++; /* that of the target */
  if (n != nnames)
    fail(number, "headers that the request has not");
  lua_pop(L, 1);
}

/* The request at `at`, which is given, is the one that the function got: on top. */
static void check_request(size_t number, const struct strict_request *r) {
  struct strict_text body = {r->body, r->body_size};
  if (!is_field("method", r->method) || !is_field("target", r->target))
    fail(number, "another method or target");
  if (!is_field("body", body))
    fail(number, "another body");
  assert(body.size <= BODY_MAX && r->nfields <= FIELDS_MAX);
  struct strict_text version = {r->minor == 0 ? "1.0" : "1.1", 3};
  if (!is_field("version", version))
    fail(number, "another version");
  check_headers(number, r);
}

/* Each request that the function got stands there by the strict reading, too; and the
 * first that it did not get is no plain one. */
static void check_requests(int is_whole) {
  static struct strict_request r;
  static char body[STREAM_MAX];
  size_t at = 0;
  int goes_on = 1;
  r.body = body;
  lua_rawgeti(L, LUA_REGISTRYINDEX, requests);
  for (size_t i = 1; i <= nrequests; i++) {
    enum strict rc = strict_read(stream + at, stream_size - at, &r);
    if (rc != STRICT_WHOLE)
      fail(i, rc == STRICT_MORE ? "is not whole" : r.why ? r.why : "is wrong");
    lua_rawgeti(L, -1, (lua_Integer)i);
    check_request(i, &r);
    struct answer a = answer_to(letter_of(lua_gettop(L)));
    goes_on = goes_on && r.is_plain && a.status < 500 && !a.is_cut && !how.ends_early;
    lua_pop(L, 1);
    at += r.end;
  }
  lua_pop(L, 1);
  if (is_whole && goes_on &&
      strict_read(stream + at, stream_size - at, &r) == STRICT_WHOLE && r.is_plain &&
      r.body_size <= BODY_MAX)
    fail(nrequests + 1, "is plain, and was not taken");
}

/* As many answers as requests, and one refusal at most: where that begins, or the end. */
static size_t check_answers(const struct http_kernel *k) {
  size_t at = 0, n = 0, refusal = k->output_size;
  int is_over = 0;
  lua_rawgeti(L, LUA_REGISTRYINDEX, requests);
  while (at < k->output_size) {
    struct strict_answer a;
    struct answer expected = {0};
    int is_to_head = 0;
    if (is_over)
      fail(n, "something behind the last answer");
    if (n < nrequests) {
      lua_rawgeti(L, -1, (lua_Integer)n + 1);
      expected = answer_to(letter_of(lua_gettop(L)));
      is_to_head = is_field("method", (struct strict_text){"HEAD", 4});
      lua_pop(L, 1);
    }
    enum strict rc =
        strict_read_answer(k->output + at, k->output_size - at, is_to_head, &a);
    if (rc == STRICT_WRONG)
      fail(n + 1, "its answer is malformed");
    if (n == nrequests && a.status != 100)
      refusal = at;
    if (rc == STRICT_MORE) {
      if (expected.is_cut || (n == nrequests && a.status >= 400))
        break;
      fail(n + 1, "its answer is cut");
    }
    at += a.end;
    if (a.status == 100)
      continue;
    if (n == nrequests && a.status < 400)
      fail(n + 1, "an answer to no request");
    if (n < nrequests && a.status != expected.status)
      fail(n + 1, "another status");
    is_over = a.ends_with_connection;
    if (n++ == nrequests && !is_over)
      fail(n, "the connection goes on after a refusal");
  }
  if (n < nrequests && !(n + 1 == nrequests && at < k->output_size))
    fail(n + 1, "has no answer");
  lua_pop(L, 1);
  return refusal;
}

static struct http_kernel new_kernel(uint32_t cuts, uint32_t writes) {
  return (struct http_kernel){.input = stream,
                              .size = stream_size,
                              .cuts = cuts,
                              .writes = writes,
                              .is_silent = how.is_silent,
                              .is_interrupted = how.is_interrupted && cuts > 0,
                              .vanishes_at = SIZE_MAX};
}

static void end_run(struct http_kernel *kernel) {
  free(kernel->output);
  luaL_unref(L, LUA_REGISTRYINDEX, requests);
}

static void look(void) {
  struct http_kernel whole = new_kernel(0, 0), cut = new_kernel(how.cuts, how.writes);
  serve(&whole);
  check_requests(1);
  size_t refusal = check_answers(&whole), n = nrequests;
  luaL_unref(L, LUA_REGISTRYINDEX, requests);
  serve(&cut);
  check_requests(1);
  if (nrequests != n)
    fail(n, "the pieces have another number of requests");
  if (check_answers(&cut) != refusal ||
      (cut.output_size == refusal) != (whole.output_size == refusal) ||
      (refusal > 0 && memcmp(cut.output, whole.output, refusal) != 0))
    fail(n, "the pieces have other answers");
  end_run(&cut);
  if (how.vanishes) {
    struct http_kernel gone = new_kernel(how.cuts + 1, how.writes + 1);
    gone.vanishes_at = stream_size * (how.cuts & 15) / 16;
    serve(&gone);
    check_requests(0);
    size_t same = gone.output_size < refusal ? gone.output_size : refusal;
    if (nrequests > n || (same > 0 && memcmp(gone.output, whole.output, same) != 0) ||
        (gone.output_size > refusal && whole.output_size == refusal))
      fail(nrequests, "a client that vanished has more");
    end_run(&gone);
  }
  free(whole.output);
}

/* FF n c: 256 * n bytes c. */
static void expand(const uint8_t *data, size_t size, char *to) {
  stream_size = 0;
  for (size_t i = 0; i < size; i++) {
    int is_run = data[i] == 0xff && size - i > 2;
    size_t n = is_run ? 256u * data[i + 1] : 1;
    if (stream_size + n > STREAM_MAX)
      return;
    memset(to + stream_size, is_run ? data[i + 2] : data[i], n);
    stream_size += n;
    i += is_run ? 2 : 0;
  }
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
  luaopen_moonfork_http_core(L);
  lua_getfield(L, -1, "serve");
  lua_setfield(L, LUA_REGISTRYINDEX, "serve");
  lua_settop(L, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static char room[STREAM_MAX];
  if (size < 3)
    return 0;
  how = (struct how){.is_async = data[0] & 1,
                     .is_silent = data[0] >> 1 & 1,
                     .vanishes = data[0] >> 2 & 1,
                     .ends_early = data[0] >> 3 & 1,
                     .is_interrupted = data[0] >> 4 & 1,
                     .cuts = 1u + data[1],
                     .writes = data[2]};
  expand(data + 3, size - 3, room);
  char *copy =
      malloc(stream_size + 1); /* of its own, so that a byte too many is noticed */
  if (!copy)
    return 0;
  memcpy(copy + 1, room, stream_size);
  stream = copy + 1;
  renew_state();
  look();
  lua_settop(L, 0);
  free(copy);
  return 0;
}
