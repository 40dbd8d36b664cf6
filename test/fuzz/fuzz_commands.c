/* libFuzzer: arbitrary bytes as the commands of a template. They go through the real
 * inbox, the real table of commands and phases, the real gathering of parts and the real
 * parsers; the handlers below do what theirs do up to the point where they would act: no
 * fork, no Lua, no descriptor. What must hold: no crash, nothing executed in a phase that
 * forbids it, every text inside the body it came from, the count of commands exact.
 *
 * Input: byte 0 is the phase to begin in (modulo), the rest is what a socket would
 * bring; descriptors are numbers that name nothing, as many as headers ask for. */
#undef NDEBUG /* its asserts are the test */
#include "base/result.h"
#include "template/fork/clone.h"
#include "template/serve/commands.h"
#include "template/serve/runner.h"
#include "template/serve/serve.h"
#include "template/thread/thread_ready.h"
#include "wire/inbox.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct server server;
static uint64_t expected; /* commands that were executed and did not fail */
static volatile unsigned sum;

static void touch(struct text t) {
  for (size_t i = 0; i < t.n; i++)
    sum += (unsigned char)t.p[i];
}

static int done(struct server *s, struct command *c, unsigned type,
                enum serve_phase phase) {
  assert(c->type == type);
  assert(s->phase == phase);
  touch((struct text){(const char *)c->body, c->length});
  if (s->phase != SERVE_ENDING)
    expected++;
  return 0;
}

/* ---- the handlers, up to where they would act ---- */

int server_malformed_at(const char *origin, struct server *s, const char *what) {
  server_fail_with(s, FAILURE_PROTOCOL, PHASE_PROTOCOL, EPROTO, "%s", what);
  return 0;
}

static void touch_options(const struct options *o) {
  struct env_change change;
  struct frame f;
  size_t at = 0;
  int nfds = 0;
  touch(o->name), touch(o->cwd), touch(o->path), touch(o->cpath);
  while (options_next_env(o, &at, &change)) {
    assert(change.unset == !memchr(change.text.p, '=', change.text.n));
    touch(change.text);
  }
  at = 0;
  while (o->commands.p && options_next_frame(o->commands, &at, &f) == 0) {
    assert(f.type == CMD_ARG || f.type == CMD_FD || f.type == CMD_RUN);
    nfds += f.nfds;
  }
  assert(nfds == o->ncommand_fds);
}

int cmd_setup(struct server *s, struct command *c) {
  const unsigned char *body;
  size_t length;
  unsigned version;
  struct options o;
  struct build build;
  if (options_parse_setup(c->body, c->length, &body, &length, &version, &build) < 0 ||
      options_parse(&o, body, length, 0) < 0)
    return server_malformed(s, "setup");
  touch_options(&o);
  assert(!o.commands.p);
  done(s, c, CMD_SETUP, SERVE_BOOT);
  s->phase = SERVE_SERVING;
  return 0;
}

int cmd_fork(struct server *s, struct command *c) {
  struct options o;
  if (options_parse(&o, c->body, c->length, 1) < 0)
    return server_malformed(s, "fork");
  touch_options(&o);
  assert(!o.path.p && !o.cpath.p);
  return done(s, c, CMD_FORK, SERVE_SERVING);
}

int thread_ready_wait(struct server *s) {
  assert(!s->lends); /* nobody forks here */
  return 0;
}

int cmd_eval(struct server *s, struct command *c) {
  struct eval e;
  if (options_parse_eval(&e, c->body, c->length) < 0)
    return server_malformed(s, "eval");
  touch(e.code);
  touch(e.name);
  for (uint32_t i = 0; i < e.argc; i++) {
    struct text t;
    t.p = reader_str(&e.args, &t.n);
    assert(t.p && e.args.ok);
    touch(t);
  }
  return done(s, c, CMD_EVAL, SERVE_SERVING);
}

int cmd_setenv(struct server *s, struct command *c) {
  struct text name, value;
  if (options_parse_setenv(c->body, c->length, &name, &value) < 0)
    return server_malformed(s, "setenv");
  assert(name.n > 0 && !memchr(name.p, '=', name.n));
  touch(name), touch(value);
  return done(s, c, CMD_SETENV, SERVE_SERVING);
}

int cmd_limit(struct server *s, struct command *c) {
  struct limit_value v;
  int r;
  for (size_t i = 0; (r = options_parse_limit(c->body, c->length, i, &v)) == 0; i++)
    assert(v.which >= LIMIT_CPU && v.which <= LIMIT_LAST);
  return r < 0 ? server_malformed(s, "limit") : done(s, c, CMD_LIMIT, SERVE_SERVING);
}

int cmd_set(struct server *s, struct command *c) {
  struct set set;
  if (options_parse_set(&set, c->body, c->length) < 0)
    return server_malformed(s, "set");
  assert(set.name.n > 0);
  touch(set.name), touch(set.message);
  return done(s, c, CMD_SET, SERVE_SERVING);
}

#define SIMPLE(name, type)                                                               \
  int name(struct server *s, struct command *c) {                                        \
    return done(s, c, type, SERVE_SERVING);                                              \
  }
SIMPLE(cmd_require, CMD_REQUIRE)
SIMPLE(cmd_arg, CMD_ARG)
SIMPLE(cmd_fd, CMD_FD)
SIMPLE(cmd_run, CMD_RUN)
SIMPLE(cmd_chdir, CMD_CHDIR)
SIMPLE(cmd_seal, CMD_SEAL)
SIMPLE(cmd_take_args, CMD_TAKE_ARGS)
SIMPLE(cmd_listen, CMD_LISTEN)
SIMPLE(cmd_memory, CMD_MEMORY)
SIMPLE(cmd_save, CMD_SAVE)
SIMPLE(cmd_who, CMD_WHO)

int cmd_close(struct server *s, struct command *c) {
  done(s, c, CMD_CLOSE, SERVE_SERVING);
  s->phase = SERVE_ENDING;
  return 0;
}

/* ---- what the loop would call ---- */

void server_fail_at(const char *origin, struct server *s, int code, int phase, int error,
                    const char *format, ...) {
  assert(code >= FAILURE_REMOTE && code <= FAILURE_CODE_LAST);
  assert(phase >= PHASE_START && phase <= PHASE_LAST);
  s->phase = SERVE_ENDING;
}
void server_exit(struct server *s, int code) {
  abort();
}
void server_title(struct server *s, const char *kind) {
}

/* ---- a connection without a socket ---- */

static void serve_frames(struct server *s) {
  struct frame f;
  struct fdset fds;
  while (inbox_next(&s->conn.in, &f) == 0) {
    fdset_init(&fds);
    for (int i = 0; i < f.nfds; i++)
      fdset_push(&fds, -1);
    assert(serve_frame(s, &f, &fds, 0) == 0);
    assert(s->conn.executed >= expected || s->phase == SERVE_ENDING);
    assert(fds.n == 0);
  }
}

static void feed(struct server *s, const uint8_t *data, size_t size) {
  while (size > 0) {
    size_t room;
    struct fdset fds;
    unsigned char *to = inbox_room(&s->conn.in, &room);
    if (!to)
      return;
    size_t n = room < size ? room : size;
    memcpy(to, data, n);
    fdset_init(&fds);
    for (int i = 0; i < FRAME_FDS_MAX; i++)
      fdset_push(&fds, -1);
    if (inbox_fed(&s->conn.in, n, &fds) < 0)
      return;
    data += n;
    size -= n;
    serve_frames(s);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0)
    return 0;
  memset(&server, 0, offsetof(struct server, failure));
  expected = 0;
  connection_open(&server.conn, -1, server.room, sizeof server.room);
  server.phase = data[0] % SERVE_COUNT;
  feed(&server, data + 1, size - 1);
  gather_deinit(&server.gather);
  inbox_deinit(&server.conn.in);
  buf_deinit(&server.conn.out);
  return 0;
}
