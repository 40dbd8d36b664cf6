/* What every part of a serving process shares: the one record, failing, the bracket
 * around user code, the title, leaving. Runs in templates and clones. */
#include "template/server/server.h"

#include "base/append.h"
#include "os/flush.h"
#include "os/proc.h"
#include "socket/sys.h"
#include "template/server/signals.h"
#include "wire/build.h"
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static _Thread_local struct server *self;

struct server *server_self(void) {
  return self;
}

void server_set_self(struct server *s) {
  self = s;
}

static const char *command_name(unsigned type) {
  static const char *const names[CMD_LAST + 1] = {
      [CMD_SETUP] = "setup",   [CMD_REQUIRE] = "require", [CMD_EVAL] = "eval",
      [CMD_ARG] = "argument",  [CMD_FD] = "handles",      [CMD_FORK] = "fork",
      [CMD_RUN] = "run",       [CMD_SETENV] = "setenv",   [CMD_CHDIR] = "chdir",
      [CMD_LIMIT] = "limit",   [CMD_SEAL] = "seal",       [CMD_TAKE_ARGS] = "take_args",
      [CMD_MEMORY] = "memory", [CMD_CLOSE] = "close",     [CMD_WHO] = "who",
      [CMD_SET] = "set",       [CMD_SAVE] = "save",       [CMD_LISTEN] = "listen",
  };
  return type <= CMD_LAST && names[type] ? names[type] : "a command that is none";
}

void server_report(struct report *ret) {
  static const char *const phases[SERVE_COUNT] = {
      [SERVE_BOOT] = "boot", [SERVE_SERVING] = "serving", [SERVE_ENDING] = "ending"};
  const struct server *s = self;
  *ret = (struct report){.name = s->name,
                         .phase = phases[s->phase],
                         .command = s->executing ? command_name(s->executing - 1) : NULL,
                         .user_since_ns = s->user_since_ns,
                         .executed = s->conn.executed,
                         .nforks = s->nforks,
                         .L = s->L,
                         .heap = s->heap,
                         .collector = &s->collector};
}

void server_fail(struct server *s) {
  struct buf body;
  if (s->ending)
    s->ending(s);
  buf_init(&body, FRAME_BODY_MAX);
  connection_tell_done(&s->conn);
  if (failure_record_encode(&s->failure, &body) == 0)
    connection_answer(&s->conn, ANS_FAILED, s->conn.executed + 1, buf_peek(&body),
                      buf_size(&body));
  buf_deinit(&body);
  args_clear(&s->args);
  s->exit_code = 1;
  s->phase = SERVE_ENDING;
}

void server_fail_at(const char *origin, struct server *s, int code, int phase, int error,
                    const char *format, ...) {
  struct failure_record *f = &s->failure;
  va_list ap;
  failure_record_clear(f);
  f->code = code;
  f->phase = phase;
  f->error = error;
  va_start(ap, format);
  int n = vsnprintf(f->message, sizeof f->message, format, ap);
  va_end(ap);
  f->nmessage = n < 0                           ? 0
                : (size_t)n < sizeof f->message ? (size_t)n
                                                : sizeof f->message - 1;
  failure_record_add_origin(f, origin);
  server_fail(s);
}

int server_malformed_at(const char *origin, struct server *s, const char *what) {
  server_fail_at(origin, s, FAILURE_PROTOCOL, PHASE_PROTOCOL, EPROTO, "%s", what);
  return 0;
}

void server_answer_hello(struct server *s) {
  unsigned char body[16 + 2 * (4 + BUILD_TEXT_MAX)];
  struct buf b = {.data = body, .cap = sizeof body, .max = sizeof body};
  buf_put_u32(&b, PROTO_MAGIC);
  buf_put_u16(&b, PROTO_VERSION);
  buf_put_u16(&b, s->leash.group ? HELLO_TREE : 0);
  buf_put_u64(&b, s->conn.executed);
  build_put(&b);
  connection_answer(&s->conn, ANS_HELLO, (uint64_t)getpid(), body, buf_size(&b));
}

int server_has_fd(const struct server *s, int fd) {
  return fd == s->conn.fd || fd == s->intake_fd ||
         (s->accepting.fd > 0 && fd == s->accepting.fd) || fd == s->leash.source ||
         fd == s->leash.armed || (s->thread && fd == s->life) ||
         args_has_fd(&s->args, fd) || inbox_holds_fd(&s->conn.in, fd);
}

uint64_t server_lua_live(struct server *s) {
  if (!s->heap)
    return (uint64_t)lua_gc(s->L, LUA_GCCOUNT) * 1024 +
           (uint64_t)lua_gc(s->L, LUA_GCCOUNTB);
  return heap_live(s->heap);
}

void server_release(struct server *s) {
  if (s->release)
    s->release();
  s->release = NULL;
}

void server_enter_user(struct server *s) {
  server_release(s);
  (void)connection_need(&s->conn);
  if (buf_size(&s->conn.out) > 0) {
    connection_tell_done(&s->conn);
    connection_flush(&s->conn); /* it may take long; what goes not now goes later */
  }
  if (s->title_stale)
    server_title(s, s->is_clone ? "clone" : "template");
  collector_touch(&s->collector);
  s->accepting.known = 0;
  if (!s->thread) {
    leash_hold(&s->leash);
    signals_enter_user();
  }
  s->user_since_ns = proc_now_ns();
}

/* Is 1 in this process and reads 0 in any copy; NULL: there is none. */
static volatile char *original;

void server_mark_original(void) {
#ifdef MADV_WIPEONFORK
  if (self && self->thread)
    return;
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  void *mark = original ? (void *)(uintptr_t)original
                        : mmap(NULL, page, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mark == MAP_FAILED)
    return;
  if (madvise(mark, page, MADV_WIPEONFORK) < 0) {
    munmap(mark, page);
    original = NULL;
    return;
  }
  original = mark;
  *original = 1;
#endif
}

void server_take_pid(struct server *s) {
  s->pid = getpid();
  if (original)
    *original = 1;
}

void server_end_copy(const struct server *s) {
  if (original && !s->thread ? *original : s->pid == getpid())
    return;
  fflush(NULL);
  _exit(0);
}

void server_leave_user(struct server *s) {
  server_end_copy(s);
  s->user_since_ns = 0;
  if (s->thread)
    return;
  signals_leave_user();
  leash_rest(&s->leash);
}

void server_move_title(struct server *s) {
  proc_move_title(s->title, sizeof s->title);
}

/* By hand: every clone makes a title. */
void server_title(struct server *s, const char *kind) {
  char text[SERVER_TITLE_MAX + 1], *at = text, *end = text + sizeof text - 1;
  s->title_stale = 0;
  if (s->thread)
    return;
  at = append_number(at, end, s->owner_pid);
  at = append_text(at, end, " moonfork: ");
  at = append_text(at, end, kind ? kind : s->run.title);
  at = append_text(at, end, " ");
  at = append_text(at, end, s->name);
  while (at > text && at[-1] == ' ')
    at--;
  *at = 0;
  proc_set_title(text);
}

void (*server_before_first_fork)(void);

/* Who reads what a function has written at its end gets it when the kernel lets the
 * reader run, which on the same processor may be after the end of this process: as long
 * again as all that came before it from a clone that was there already. Such a clone lets
 * the reader go first. The price is a turn of the processor where others want it, too; a
 * clone forked just now does not pay it. */
static void let_reader_run(const struct server *s) {
  if (!s->run.is_fresh && sys_has_written())
    sched_yield();
}

/* Clones in threads have descriptors of their own. Whoever reads to the end of what the
 * function wrote need not wait for them. */
static void close_before_threads_end(const struct server *s) {
  int keep[2];
  size_t n = 0;
  if (s->leash.source >= 0)
    keep[n++] = s->leash.source;
  if (s->leash.armed >= 0)
    keep[n++] = s->leash.armed;
  flush_pending();
  if (s->conn.fd < 0) /* else the parent would take it for the end */
    fd_close_from(3, keep, n);
}

void server_exit(struct server *s, int code) {
  if (s->before_exit)
    s->before_exit();
  if (s->leave &&
      s->pid == getpid()) /* a copy of the process is no thread of anybody's */
    s->leave(s, code);
  if (s->await_threads) {
    close_before_threads_end(s);
    s->await_threads(s, -1);
  }
  if (!s->run.is_silent)
    flush_pending();
  let_reader_run(s);
  _exit(code);
}
