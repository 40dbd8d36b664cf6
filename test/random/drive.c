/* drive: the C API in random schedules, with real processes. Runs as a parent.
 *
 *   drive [--seconds S] [--rounds N] [--seed N] [--verbose] [--hostile PROGRAM]
 *
 * A round makes processes, forks, rpcs and pools, asks them for anything with good and
 * bad values, kills and stops them, and closes each at a random moment; a part of it
 * happens inside callbacks. With --hostile the template program is PROGRAM, which says
 * what it likes. What must hold in each round (beside what round.h looks at):
 *
 *   - each callback comes once, later than the call that took it, before its owner's
 * close
 *   - everything is closed within CLOSE_S, and the loop has no handle left
 *   - descriptors and children are as before
 *   - while nothing is under way nobody uses the processor
 *
 * A round is played again by its seed; the kernel's timing is not. */
#include "round.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <moonfork.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

enum {
  PROCS = 14,
  RPCS = 4,
  POOLS = 2,
  SOCKETS = 64,
  STEPS = 160,
  DEPTH_MAX = 3,
  FDS_MAX = 1024,
  CLOSE_S = 16,   /* an rpc waits 10 s for its answers, then kills */
  QUIET_MS = 100, /* in which nobody may use more than */
  QUIET_CPU_MS = 6,
  LATE_MS = 2000, /* beyond a deadline that a callback may come */
  STALL_MS = 300, /* of processor time in one turn */
  MEMORY_MB = 500
};

static const char *program; /* the hostile one, or NULL */
static double slowness = 1; /* of this machine, or of a sanitizer */
static int inside;          /* a call of the library is under way */
static int depth;           /* of callbacks that act */
static int closing_all;
static int somebody_hangs; /* and uses a processor */
static uv_loop_t *loop;

#define FAIL(...)                                                                        \
  do {                                                                                   \
    fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                      \
    fprintf(stderr, __VA_ARGS__);                                                        \
    fprintf(stderr, "\n");                                                               \
    abort();                                                                             \
  } while (0)
#define CHECK(x)                                                                         \
  do {                                                                                   \
    if (!(x))                                                                            \
      FAIL("%s", #x);                                                                    \
  } while (0)
#define CALL(x) call_end(#x, (inside++, (x)))
#define DO(x) CALL(((x), 0))

static int telling; /* each call is printed */
static double began;

static int call_end(const char *what, int r) {
  inside--;
  if (telling)
    printf("# %.3f %*s%s = %d\n", round_now() - began, 2 * depth, "", what, r);
  return r;
}

/* ---- the ledger ---- */

/* What was asked: its callback is due once, before the owner's close callback. */
struct ask {
  struct ask *next;
  const char *what;
  struct owner *owner;
  double due; /* 0: whenever */
  int told;
  int quiet; /* it may wait for ever: an exit, an error */
  int spare; /* it need not come at all */
};

struct owner { /* a process, an rpc or a pool */
  const char *kind;
  int open, closed; /* closed: its close callback has come */
  int number;
};

static struct ask *asks;
static int nowners;

static struct ask *ask_new(const char *what, struct owner *owner) {
  struct ask *a = calloc(1, sizeof *a);
  CHECK(a);
  a->what = what;
  a->owner = owner;
  a->next = asks;
  asks = a;
  return a;
}

/* The call refused it: nothing is due. */
static void ask_settle(struct ask *a, int r) {
  if (r < 0) {
    CHECK(!a->told);
    a->told = 1;
  }
}

static void tell(const char *what, const struct owner *o) {
  if (telling)
    printf("# %.3f %*s%s of %s %d\n", round_now() - began, 2 * depth, "", what, o->kind,
           o->number);
}

static void ask_told(struct ask *a) {
  tell(a->what, a->owner);
  if (inside)
    FAIL("%s of %s %d: told inside a call", a->what, a->owner->kind, a->owner->number);
  if (a->told)
    FAIL("%s of %s %d: told twice", a->what, a->owner->kind, a->owner->number);
  if (a->owner->closed)
    FAIL("%s of %s %d: told after the close", a->what, a->owner->kind, a->owner->number);
  if (a->due > 0 && round_now() > a->due + LATE_MS * slowness / 1000)
    FAIL("%s of %s %d: told %.1f s late", a->what, a->owner->kind, a->owner->number,
         round_now() - a->due);
  a->told = 1;
}

static void owner_closed(struct owner *o) {
  tell("close", o);
  CHECK(!inside && !o->closed);
  o->closed = 1;
  for (struct ask *a = asks; a; a = a->next)
    if (a->owner == o && !a->told && !a->spare)
      FAIL("%s of %s %d: not told before the close", a->what, o->kind, o->number);
}

static int nasked(int quiet_too) {
  int n = 0;
  for (struct ask *a = asks; a; a = a->next)
    n += !a->told && (quiet_too || !a->quiet);
  return n;
}

static void check_error(const mf_error *e) {
  if (telling)
    printf("#   -> %s%s%s\n", e ? mf_errname(e->code) : "success", e ? ": " : "",
           e ? e->message : "");
  if (!e)
    return;
  CHECK(e->code < 0 && e->message);
  CHECK(e->started == MF_STARTED_NO || e->started == MF_STARTED_UNKNOWN);
  CHECK(mf_errname(e->code));
}

/* ---- the objects ---- */

struct proc {
  struct owner owner;
  mf_process *p;
  struct ask *exit, *error; /* another one replaces it */
  int taken;                /* an rpc or a pool has it */
};
struct rpc {
  struct owner owner;
  mf_rpc *rpc;
  uint64_t last;
  int nerrors, ncloses;
};
struct pool {
  struct owner owner;
  mf_pool *pool;
  uint64_t last;
};

static struct proc *procs[PROCS];
static struct rpc *rpcs[RPCS];
static struct pool *pools[POOLS];
enum { GRAVES = 4096 };
static void *graves[GRAVES];         /* freed at the end: callbacks may point into them */
static struct owner *owners[GRAVES]; /* the first member of some of them */
static int ngraves;
static int sockets[SOCKETS], nsockets;

static void bury(void *p, struct owner *owner) {
  CHECK(ngraves < GRAVES);
  owners[ngraves] = owner;
  graves[ngraves++] = p;
}

static void keep_socket(int fd) {
  CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  if (nsockets == SOCKETS)
    close(sockets[--nsockets]);
  sockets[nsockets++] = fd;
}

static void close_socket(int i) {
  close(sockets[i]);
  sockets[i] = sockets[--nsockets];
}

static void act(void);

static void maybe_act(void) {
  if (closing_all || depth >= DEPTH_MAX || !random_one_in(4))
    return;
  depth++;
  act();
  depth--;
}

/* ---- callbacks ---- */

static void on_run(mf_process *p, const mf_error *e, int fd, void *data) {
  (void)p;
  ask_told(data);
  check_error(e);
  CHECK((e != NULL) == (fd < 0));
  if (fd >= 0) {
    CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
    keep_socket(fd);
  }
  maybe_act();
}

static void on_exit_told(mf_process *p, const mf_exit *s, void *data) {
  (void)p;
  ask_told(data);
  CHECK(s && (s->known || (!s->code && !s->signal)));
  CHECK(s->code >= 0 && s->code < 256 && s->signal >= 0 && s->signal < 65);
  CHECK(!s->code || !s->signal);
  maybe_act();
}

static void on_error_told(mf_process *p, const mf_error *e, void *data) {
  (void)p;
  ask_told(data);
  CHECK(e);
  check_error(e);
  maybe_act();
}

static void on_memory(mf_process *p, const mf_error *e, const mf_memory_info *m,
                      void *data) {
  (void)p;
  ask_told(data);
  check_error(e);
  CHECK(!e != !m);
  maybe_act();
}

static void on_proc_closed(mf_process *p, void *data) {
  struct proc *it = data;
  (void)p;
  owner_closed(&it->owner);
  maybe_act();
}

static void on_reply(const mf_error *e, const mf_message *m, void *data) {
  ask_told(data);
  check_error(e);
  CHECK(!e != !m);
  maybe_act();
}

static void on_event(const mf_message *m, void *data) {
  CHECK(m && data && !inside);
  maybe_act();
}

static void on_trouble(const mf_error *e, void *data) {
  struct rpc *it = data;
  CHECK(e && !inside && !it->owner.closed);
  check_error(e);
  CHECK(it->nerrors++ == 0);
  maybe_act();
}

static void on_rpc_end(void *data) {
  struct rpc *it = data;
  CHECK(!inside && !it->owner.closed && it->ncloses++ == 0);
  maybe_act();
}

static void on_rpc_closed(mf_rpc *rpc, void *data) {
  struct rpc *it = data;
  (void)rpc;
  owner_closed(&it->owner);
  maybe_act();
}

static void on_pool_trouble(const mf_error *e, void *data) {
  struct pool *it = data;
  CHECK(e && !inside && !it->owner.closed);
  check_error(e);
  maybe_act();
}

static void on_pool_told(mf_pool *pool, const mf_error *e, void *data) {
  (void)pool;
  ask_told(data);
  check_error(e);
  maybe_act();
}

static void on_pool_closed(mf_pool *pool, void *data) {
  struct pool *it = data;
  (void)pool;
  owner_closed(&it->owner);
  maybe_act();
}

static void on_release(void *data) {
  int *lent = data;
  CHECK(*lent == 1);
  *lent = 2;
}

/* ---- values ---- */

static const char functions[] =
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

static const char *pick(const char *const *list, uint32_t n) {
  return list[random_below(n)];
}
#define PICK(list) pick(list, sizeof list / sizeof *list)

static const char *a_function(void) {
  static const char *const good[] = {"quick", "hold",  "hold",  "say", "talk",
                                     "fails", "exits", "spins", "type"};
  static const char *const bad[] = {"nothing", "",   "no.such.thing", "nomodule:f",
                                    "string:", ":x", "\xff\xfe",      "string:format"};
  return random_one_in(6) ? PICK(bad) : PICK(good);
}

static const char *a_service(void) {
  static const char *const list[] = {"echo", "echo", "events", "sometimes", "nothing"};
  return PICK(list);
}

static size_t a_size(void) {
  static const uint32_t sizes[] = {1, 10, 1000, 5000, 70000, 300000, 1100000};
  return random_below(sizes[random_below(random_one_in(8) ? 7 : 4)]);
}

static unsigned char bytes[1100000];

static int a_descriptor(void) { /* borrowed */
  static const int bad[] = {-1, 9999, 1 << 30, -2147483647};
  return random_one_in(4) ? bad[random_below(4)] : (int)random_below(3);
}

static const char *some_code(void) {
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

static void some_options(mf_options *o) {
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

/* ---- processes ---- */

static struct proc **free_place(void) {
  for (int i = 0; i < PROCS; i++)
    if (!procs[i])
      return &procs[i];
  return NULL;
}

static struct proc *a_proc(void) {
  struct proc *p = procs[random_below(PROCS)];
  return p;
}

/* Asked again, the new callback takes the place of the old one. */
static void ask_exit(struct proc *it) {
  struct ask *a = ask_new("on_exit", &it->owner);
  a->quiet = 1;
  if (it->exit)
    it->exit->told = 1;
  it->exit = a;
  CHECK(CALL(mf_on_exit(it->p, on_exit_told, a)) == 0);
}

static void ask_error(struct proc *it) {
  struct ask *a = ask_new("on_error", &it->owner);
  if (it->error)
    it->error->spare = 1;
  it->error = a;
  a->spare = a->quiet = 1;
  CHECK(CALL(mf_on_error(it->p, on_error_told, a)) == 0);
}

static void add_proc(mf_process *p) {
  if (telling)
    printf("# process %d\n", nowners);
  struct proc **place = free_place();
  struct proc *it = calloc(1, sizeof *it);
  CHECK(place && it && p);
  *it =
      (struct proc){.owner = {.kind = "process", .open = 1, .number = nowners++}, .p = p};
  *place = it;
  bury(it, &it->owner);
  if (random_one_in(2))
    ask_exit(it);
}

static void teach(mf_process *p) {
  DO(mf_eval(p, functions, sizeof functions - 1, 0, NULL, NULL));
}

static void make_proc(void) {
  mf_options o;
  mf_process *p = NULL;
  int r, exec = random_one_in(3);
  if (!free_place())
    return;
  some_options(&o);
  if (exec && program)
    o.program = program;
  if (exec && random_one_in(12))
    o.program = random_one_in(2) ? "/no/such/program" : "/bin/true";
  if (exec && random_one_in(4)) {
    o.spares_max = random_below(4);
    o.spares_min = random_below(o.spares_max + 2);
  }
  r = exec ? CALL(mf_new_exec(&o, &p)) : CALL(mf_new(&o, &p));
  CHECK((r == 0) == (p != NULL));
  if (p) {
    add_proc(p);
    teach(p);
  }
}

static void fork_proc(void) {
  struct proc *it = a_proc();
  mf_process *p = NULL;
  mf_options o;
  int r;
  if (!it || !free_place() || it->taken)
    return;
  some_options(&o);
  r = random_one_in(2) ? CALL(mf_fork(it->p, &p)) : CALL(mf_fork_options(it->p, &o, &p));
  CHECK((r == 0) == (p != NULL));
  if (p)
    add_proc(p);
}

static void lend(mf_process *p) {
  int *lent = malloc(sizeof *lent);
  *lent = 1;
  bury(lent, NULL);
  int r = CALL(mf_send_arg_ref(p, bytes, a_size(), on_release, lent));
  CHECK(r == 0 || *lent == 2); /* exactly once, also on failure */
}

static void prepare_proc(void) {
  struct proc *it = a_proc();
  static const char *const modules[] = {"string", "moonfork.clone", "no.such.module", "",
                                        "moonfork.rpc"};
  static const char *const paths[] = {"/", "/tmp", "/no/such", ""};
  static const char *const names[] = {"A", "B", "", "A=B", "LONG"};
  static const char *const globals[] = {"x", "x.y", "a..b", "", "package.path"};
  static const char *const limits[] = {"core", "nofile", "nproc", "cpu", "nothing", ""};
  if (!it || it->taken)
    return;
  mf_process *p = it->p;
  const char *code = some_code();
  if (random_one_in(60)) { /* closing it ends it all the same */
    code = "while true do end";
    somebody_hangs = 1;
  }
  switch (random_below(12)) {
  case 0:
    DO(mf_require(p, PICK(modules)));
    break;
  case 1:
    DO(mf_eval(p, code, strlen(code), 0, NULL, NULL));
    break;
  case 2: {
    const char *argv[] = {"one", "", (const char *)bytes};
    size_t lengths[] = {3, 0, a_size()};
    DO(mf_eval(p, code, strlen(code), 3, argv, lengths));
    break;
  }
  case 3:
    DO(mf_send_fd(p, a_descriptor()));
    break;
  case 4:
    DO(mf_send_arg(p, bytes, a_size()));
    break;
  case 5:
    lend(p);
    break;
  case 6:
    DO(mf_take_args(p));
    break;
  case 7:
    DO(mf_chdir(p, PICK(paths)));
    break;
  case 8:
    DO(mf_setenv(p, PICK(names), random_one_in(2) ? NULL : "value"));
    if (random_one_in(3)) { /* bytes are many numbers, where one is expected */
      DO(mf_set(p, PICK(globals), bytes, random_one_in(2) ? 1 : a_size()));
    }
    break;
  case 9:
    DO(mf_seal(p, (int)random_below(3) | MF_SEAL_AUDIT_OFF));
    break;
  case 10:
    DO(mf_seal(p, random_one_in(3) ? (int)random_below(1u << 30) : 0));
    break;
  default: {
    mf_rlimit l = {PICK(limits),
                   random_one_in(2) ? 64 + random_below(1000) : MF_LIMIT_INFINITY};
    DO(mf_limit(p, &l, random_below(2)));
  }
  }
}

static void run_proc(void) {
  struct proc *it = a_proc();
  if (!it || it->taken)
    return;
  tell("asking", &it->owner);
  struct ask *a = ask_new("run", &it->owner);
  a->quiet = program != NULL; /* it may never answer */
  ask_settle(a, random_one_in(12) ? CALL(mf_to_fd(it->p, on_run, a))
                                  : CALL(mf_run(it->p, a_function(), on_run, a)));
}

static void adopt(void) {
  mf_options o;
  mf_process *p = NULL;
  int fd = -1;
  if (!free_place())
    return;
  if (nsockets && random_one_in(2)) { /* a command socket, or somebody's own */
    fd = sockets[--nsockets];
  } else if (random_one_in(4)) {
    fd = -1 - (int)random_below(2);
  } else {
    return;
  }
  mf_options_init(&o);
  o.loop = loop;
  if (CALL(mf_from_fd(&o, fd, &p)) == 0)
    add_proc(p);
}

static void ask_proc(void) {
  struct proc *it = a_proc();
  struct ask *a;
  static const int signals[] = {SIGTERM, SIGKILL, SIGUSR1, 0, -1, 1000, SIGHUP};
  if (!it || it->taken)
    return;
  switch (random_below(6)) {
  case 0:
    ask_exit(it);
    break;
  case 1:
    ask_error(it);
    break;
  case 2:
    a = ask_new("memory", &it->owner);
    a->quiet = program != NULL;
    ask_settle(a, CALL(mf_memory(it->p, on_memory, a)));
    break;
  case 3:
    DO(mf_kill(it->p, signals[random_below(7)]));
    break;
  case 4:
    DO(mf_pid(it->p));
    DO(mf_spares(it->p));
    break;
  default:
    DO(mf_finish(it->p));
    break;
  }
}

static void close_proc(int i) {
  struct proc *it = procs[i];
  if (!it)
    return;
  procs[i] = NULL;
  if (it->taken)
    return;
  it->owner.open = 0;
  tell("closing", &it->owner);
  DO(mf_close(it->p, on_proc_closed, it));
}

/* ---- rpcs ---- */

static mf_process *take_proc(struct proc **ret) {
  struct proc *it = a_proc();
  *ret = it;
  return it && !it->taken ? it->p : NULL;
}

/* The process is closed with what took it; its own callbacks come before that. */
static void give_proc(struct proc *it) {
  tell("taken", &it->owner);
  it->taken = 1;
  for (int i = 0; i < PROCS; i++)
    if (procs[i] == it)
      procs[i] = NULL;
}

static void some_rpc_options(mf_rpc_options *o) {
  static const char *const serialisers[] = {NULL, "raw", "string", "msgpack"};
  mf_rpc_options_init(o);
  o->serialiser = serialisers[random_one_in(3) ? random_below(4) : 0];
  o->handles = random_one_in(2);
  o->strict = random_one_in(4);
  if (random_one_in(4))
    o->timeout_ms = 1 + random_below(200);
  if (random_one_in(4))
    o->message_max = 1 + random_below(100000);
  if (random_one_in(4))
    o->pending_max = 1 + random_below(20);
  if (random_one_in(6))
    o->init = random_one_in(2) ? "quick" : "nothing";
}

static void make_rpc(void) {
  struct rpc **place = &rpcs[random_below(RPCS)];
  struct proc *from;
  mf_process *p = take_proc(&from);
  mf_rpc_options o;
  if (*place || !p)
    return;
  struct rpc *it = calloc(1, sizeof *it);
  it->owner = (struct owner){.kind = "rpc", .open = 1, .number = nowners++};
  bury(it, &it->owner);
  some_rpc_options(&o);
  o.on_event = on_event;
  o.on_error = on_trouble;
  o.on_close = on_rpc_end;
  o.data = it;
  it->owner.open = CALL(mf_rpc_new(p, a_service(), &o, &it->rpc)) == 0;
  it->owner.closed = !it->owner.open;
  if (it->owner.closed)
    return;
  give_proc(from);
  *place = it;
}

static void call_options(mf_call_options *o, struct ask *a) {
  *o = (mf_call_options)MF_CALL_OPTIONS_INIT;
  o->idempotent = random_one_in(3);
  if (random_one_in(4)) {
    o->timeout_ms = 1 + random_below(100);
    a->due = round_now() + o->timeout_ms / 1000.0;
  }
}

static void a_message(mf_message *m, int *fds) {
  *m = (mf_message){bytes, a_size(), NULL, 0};
  if (!random_one_in(5))
    return;
  m->fds = fds;
  m->nfds = random_below(20);
  for (size_t i = 0; i < m->nfds; i++)
    fds[i] = random_one_in(40) ? a_descriptor() : 0;
}

static void use_rpc(void) {
  struct rpc *it = rpcs[random_below(RPCS)];
  if (!it)
    return;
  if (random_one_in(12)) {
    int r =
        CALL(mf_rpc_cancel(it->rpc, random_one_in(3) ? random_below(1000) : it->last));
    CHECK(r == 0 || r == -ESRCH);
    return;
  }
  if (random_one_in(20)) {
    mf_rpc_stats stats = {.size = sizeof stats};
    CHECK(CALL(mf_rpc_get_stats(it->rpc, &stats)) == 0);
    DO(mf_kill(mf_rpc_process(it->rpc), random_one_in(2) ? SIGKILL : SIGTERM));
    return;
  }
  for (unsigned n = 1 + random_below(random_one_in(4) ? 30 : 3); n; n--) {
    struct ask *a = ask_new("call", &it->owner);
    mf_call_options o;
    mf_message m;
    int fds[20];
    a->quiet = program != NULL;
    call_options(&o, a);
    a_message(&m, fds);
    ask_settle(a, CALL(mf_rpc_call(it->rpc, &m, &o, on_reply, a, &it->last)));
  }
}

static void close_rpc(int i) {
  struct rpc *it = rpcs[i];
  if (!it)
    return;
  rpcs[i] = NULL;
  it->owner.open = 0;
  if (program || random_one_in(3)) /* what never answers has to be given up */
    DO(mf_rpc_abort(it->rpc));
  tell("closing", &it->owner);
  DO(mf_rpc_close(it->rpc, on_rpc_closed, it));
}

/* ---- pools ---- */

static void make_pool(void) {
  struct pool **place = &pools[random_below(POOLS)];
  struct proc *from;
  mf_process *p = take_proc(&from);
  mf_rpc_options ro;
  mf_pool_options o;
  if (*place || !p)
    return;
  struct pool *it = calloc(1, sizeof *it);
  it->owner = (struct owner){.kind = "pool", .open = 1, .number = nowners++};
  bury(it, &it->owner);
  some_rpc_options(&ro);
  ro.on_event = on_event;
  ro.on_error = on_pool_trouble;
  ro.data = it;
  mf_pool_options_init(&o);
  o.rpc = &ro;
  o.max = random_below(4);
  o.load = random_below(4);
  o.tree = (int)random_below(3);
  o.idle = random_below(3);
  o.start_ms = random_below(20);
  o.stop_ms = 1 + random_below(100);
  o.grace_ms = 1 + random_below(1000);
  if (random_one_in(4))
    o.queue_max = random_below(10);
  if (random_one_in(3))
    o.max_calls = 1 + random_below(20);
  if (random_one_in(3))
    o.call_timeout_ms = 5 + random_below(100);
  if (random_one_in(10))
    o.restart_burst = random_below(2000);
  it->owner.open = CALL(mf_pool_new(p, a_service(), &o, &it->pool)) == 0;
  it->owner.closed = !it->owner.open;
  if (it->owner.closed)
    return;
  give_proc(from);
  *place = it;
}

static void call_pool(struct pool *it) {
  for (unsigned n = 1 + random_below(random_one_in(3) ? 40 : 4); n; n--) {
    struct ask *a = ask_new("call", &it->owner);
    mf_call_options o;
    mf_message m;
    int fds[20];
    a->quiet = program != NULL;
    call_options(&o, a);
    a_message(&m, fds);
    ask_settle(a, CALL(mf_pool_call(it->pool, &m, &o, on_reply, a, &it->last)));
  }
}

static void look_at_pool(struct pool *it) {
  mf_pool_worker workers[4];
  mf_drain_report report = {.size = sizeof report};
  size_t n = CALL((int)mf_pool_workers(it->pool, workers, sizeof *workers, 4));
  for (size_t i = 0; i < n && i < 4; i++)
    CHECK(workers[i].pid > 0 && workers[i].run_time.max_us <= workers[i].run_us);
  DO(mf_pool_drain_report(it->pool, &report));
}

static void disturb_pool(struct pool *it) {
  int pids[8];
  size_t n = CALL((int)mf_pool_pids(it->pool, pids, 8));
  mf_pool_info info = {.size = sizeof info};
  CHECK(CALL(mf_pool_stats(it->pool, &info)) == 0);
  CHECK(info.state >= MF_POOL_RUNNING && info.state <= MF_POOL_CLOSED);
  look_at_pool(it);
  if (!program && n && n <= 8) /* ours by now: nobody has reaped them but the library */
    kill(pids[random_below((uint32_t)n)], random_one_in(2) ? SIGKILL : SIGTERM);
}

static void use_pool(void) {
  struct pool *it = pools[random_below(POOLS)];
  struct proc *from;
  struct ask *a;
  mf_process *p;
  if (!it)
    return;
  switch (random_below(18)) {
  case 0:
    DO(mf_pool_cancel(it->pool, random_one_in(2) ? it->last : 12345));
    break;
  case 1:
    DO(mf_pool_resize(it->pool, random_below(5)));
    break;
  case 2:
    disturb_pool(it);
    break;
  case 3:
    a = ask_new("drain", &it->owner);
    a->quiet = program != NULL;
    ask_settle(a, CALL(mf_pool_drain(it->pool, random_below(500), on_pool_told, a)));
    break;
  case 4:
    if (!(p = take_proc(&from)))
      break;
    a = ask_new("reload", &it->owner);
    a->quiet = program != NULL;
    if (CALL((random_one_in(2) ? mf_pool_reload : mf_pool_add)(it->pool, p, on_pool_told,
                                                               a)) == 0)
      give_proc(from);
    else
      ask_settle(a, -1);
    break;
  case 5:
    a = ask_new("promote", &it->owner);
    a->quiet = program != NULL;
    ask_settle(a, CALL(mf_pool_promote(it->pool, on_pool_told, a)));
    break;
  default:
    call_pool(it);
    break;
  }
}

static void close_pool(int i) {
  struct pool *it = pools[i];
  if (!it)
    return;
  pools[i] = NULL;
  it->owner.open = 0;
  if (program || random_one_in(3))
    DO(mf_pool_abort(it->pool));
  tell("closing", &it->owner);
  DO(mf_pool_close(it->pool, on_pool_closed, it));
}

/* ---- what happens ---- */

static void act(void) {
  switch (random_below(24)) {
  case 0:
  case 1:
    make_proc();
    break;
  case 2:
  case 3:
    fork_proc();
    break;
  case 4:
  case 5:
  case 6:
    prepare_proc();
    break;
  case 7:
  case 8:
    run_proc();
    break;
  case 9:
  case 10:
    ask_proc();
    break;
  case 11:
    close_proc((int)random_below(PROCS));
    break;
  case 12:
    make_rpc();
    break;
  case 13:
  case 14:
  case 15:
    use_rpc();
    break;
  case 16:
    make_pool();
    break;
  case 17:
  case 18:
  case 19:
    use_pool();
    break;
  case 20:
    if (random_one_in(3))
      close_rpc((int)random_below(RPCS));
    break;
  case 21:
    if (random_one_in(6))
      close_pool((int)random_below(POOLS));
    break;
  case 22:
    if (nsockets)
      close_socket((int)random_below((uint32_t)nsockets));
    break;
  default:
    adopt();
    if (random_one_in(12))
      DO(mf_reset(loop));
  }
}

static uv_timer_t timer;

static void on_timer(uv_timer_t *t) {
  (void)t;
}

static uint64_t own_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
  return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* One turn of the loop; no peer and no queue may keep it busy for long. */
static void turn_once(uv_run_mode mode) {
  static double worst_ms;
  uint64_t before = own_ns();
  uv_run(loop, mode);
  double ms = (double)(own_ns() - before) / 1e6;
  if (telling && ms > worst_ms)
    printf("# a turn of %.1f ms\n", worst_ms = ms);
  if (ms > STALL_MS * slowness)
    FAIL("one turn of the loop took %.0f ms of processor time", ms);
}

/* The loop for so many milliseconds at most, or until nothing is to be waited for. */
static void turn(unsigned ms, int (*enough)(void)) {
  double last = round_now() + ms / 1000.0;
  uv_timer_start(&timer, on_timer, ms < 5 ? ms : 5, 5);
  while (round_now() < last && !(enough && enough()))
    turn_once(UV_RUN_ONCE);
  uv_timer_stop(&timer);
}

/* ---- who uses the processor ---- */

static int is_ours(long pid, const long *parents, const long *pids, int n) {
  for (int depth_left = 50; depth_left && pid > 1; depth_left--) {
    if (pid == (long)getpid())
      return 1;
    long parent = 0;
    for (int i = 0; i < n; i++)
      if (pids[i] == pid)
        parent = parents[i];
    pid = parent;
  }
  return 0;
}

/* Nanoseconds on a processor, of all that descends from us. The name of who used most. */
static uint64_t descendants_ns(void) {
  enum { MOST = 4096 };
  static long pids[MOST], parents[MOST];
  uint64_t sum = 0;
  int n = 0;
  DIR *dir = opendir("/proc");
  for (struct dirent *e; dir && (e = readdir(dir)) && n < MOST;) {
    char path[300], text[512], *p;
    long pid = atol(e->d_name);
    if (pid <= 0)
      continue;
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *f = fopen(path, "r");
    size_t got = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
      fclose(f);
    text[got] = 0;
    p = strrchr(text, ')');
    if (!p || sscanf(p + 1, " %*c %ld", &parents[n]) != 1)
      continue;
    pids[n++] = pid;
  }
  if (dir)
    closedir(dir);
  for (int i = 0; i < n; i++) {
    char path[64];
    unsigned long long ns = 0;
    if (pids[i] == (long)getpid() || !is_ours(pids[i], parents, pids, n))
      continue;
    snprintf(path, sizeof path, "/proc/%ld/schedstat", pids[i]);
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%llu", &ns) == 1)
      sum += ns;
    if (f)
      fclose(f);
  }
  return sum;
}

static int nothing_is_due(void) {
  return nasked(0) == 0;
}

/* Waits until nothing is under way, and sees whether somebody works all the same. What
 * has begun late (a spare, a worker that goes) gets three more chances. */
static void check_quiet(void) {
  double mine = 0, theirs = 0;
  turn(1500, nothing_is_due);
  if (!nothing_is_due())
    return;
  for (int i = 0; i < 4; i++) {
    turn(50, NULL);
    uint64_t they = descendants_ns(), we = own_ns();
    turn(QUIET_MS, NULL);
    we = own_ns() - we;
    uint64_t now = descendants_ns();
    mine = (double)we / 1e6;
    theirs =
        now > they ? (double)(now - they) / 1e6 : 0; /* who has ended counts no more */
    if (mine < QUIET_CPU_MS * slowness && theirs < QUIET_CPU_MS * slowness)
      return;
  }
  FAIL("idle, and in %d ms we use the processor for %.1f ms, our processes for %.1f ms",
       QUIET_MS, mine, theirs);
}

/* ---- a round ---- */

static int list_fds(char *marks) {
  int n = 0;
  memset(marks, 0, FDS_MAX);
  DIR *dir = opendir("/proc/self/fd");
  for (struct dirent *e; dir && (e = readdir(dir));) {
    int fd = atoi(e->d_name);
    if (e->d_name[0] == '.' || fd == dirfd(dir) || fd >= FDS_MAX)
      continue;
    marks[fd] = 1;
    n++;
  }
  if (dir)
    closedir(dir);
  return n;
}

static void compare_fds(const char *before) {
  char after[FDS_MAX];
  double last = round_now() + 3 * slowness;
  do {
    list_fds(after);
    if (memcmp(before, after, FDS_MAX) == 0)
      return;
    uv_run(loop, UV_RUN_NOWAIT);
    usleep(2000);
  } while (round_now() < last);
  for (int fd = 0; fd < FDS_MAX; fd++) {
    char path[64], to[200] = "?";
    if (before[fd] == after[fd])
      continue;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, to, sizeof to - 1);
    to[n < 0 ? 0 : n] = 0;
    fprintf(stderr, "descriptor %d %s %s\n", fd, after[fd] ? "leaks:" : "was closed", to);
  }
  abort();
}

static const struct owner *who_is_not_closed(void) {
  for (int i = 0; i < ngraves; i++)
    if (owners[i] && !owners[i]->open && !owners[i]->closed)
      return owners[i];
  return NULL;
}

static int everything_is_closed(void) {
  return !who_is_not_closed();
}

static int nclosing;

static void on_warm_closed(mf_process *p, void *data) {
  (void)p;
  (void)data;
  nclosing--;
}

static void warm_told(mf_process *p, const mf_error *e, int fd, void *data) {
  (void)p;
  (void)e;
  *(int *)data = 1;
  if (fd >= 0)
    close(fd);
}

/* A job of each kind: what is made at first use and kept is there now. */
static void warm_up(void) {
  mf_options o;
  mf_process *p[2] = {NULL, NULL};
  int told[2] = {0, 0};
  mf_options_init(&o);
  o.loop = loop;
  o.stdio[2].kind = MF_STDIO_NULL;
  CHECK(mf_new(&o, &p[0]) == 0 && mf_new_exec(&o, &p[1]) == 0);
  for (int i = 0; i < 2; i++)
    CHECK(mf_run(p[i], "type", warm_told, &told[i]) == 0);
  double last = round_now() + 10 * slowness;
  while ((!told[0] || !told[1]) && !program && round_now() < last)
    uv_run(loop, UV_RUN_ONCE);
  for (int i = 0; i < 2; i++) {
    nclosing++;
    mf_close(p[i], on_warm_closed, NULL);
  }
  mf_reset(loop);
  while (nclosing && round_now() < last)
    uv_run(loop, UV_RUN_ONCE);
  CHECK(nclosing == 0);
  double end = round_now() + 5 * slowness;
  while (uv_run(loop, UV_RUN_NOWAIT) && round_now() < end)
    usleep(500);
  CHECK(!uv_loop_alive(loop));
}

/* Makes the library look after what has ended meanwhile, without a new process. */
static void nudge(void) {
  mf_options o;
  mf_process *p = NULL;
  mf_options_init(&o);
  o.loop = loop;
  o.program = "/no/such/program";
  CHECK(mf_new_exec(&o, &p) == 0);
  nclosing++;
  mf_close(p, on_warm_closed, NULL);
  while (nclosing)
    uv_run(loop, UV_RUN_ONCE);
}

static void check_childless(void) {
  double last = round_now() + 5 * slowness;
  siginfo_t info;
  while (round_now() < last) {
    info.si_pid = 0;
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD)
      return;
    usleep(5000);
    if (info.si_pid)
      nudge();
  }
  char command[100];
  snprintf(command, sizeof command, "ps -o pid,stat,wchan:20,time,args --ppid %ld >&2",
           (long)getpid());
  if (system(command) < 0)
    FAIL("a child stays");
  FAIL("a child of %d stays", (int)getpid());
}

static void close_all(void) {
  closing_all = 1;
  for (int i = 0; i < PROCS + RPCS + POOLS; i++) { /* in any order */
    close_proc((int)random_below(PROCS));
    close_rpc((int)random_below(RPCS));
    close_pool((int)random_below(POOLS));
  }
  while (nsockets)
    close_socket(0);
  for (int i = 0; i < POOLS; i++)
    close_pool(i);
  for (int i = 0; i < RPCS; i++)
    close_rpc(i);
  for (int i = 0; i < PROCS; i++)
    close_proc(i);
  DO(mf_reset(loop));
  double start = round_now(), last = start + CLOSE_S * slowness;
  int shown = !telling;
  while (round_now() < last && !everything_is_closed()) {
    turn(20, everything_is_closed);
    if (!shown && round_now() > start + 4) {
      shown = 1; /* who is waited for, and what it does */
      tell("waiting for", who_is_not_closed() ? who_is_not_closed() : owners[0]);
      if (system("ps -eo pid,ppid,stat,wchan:25,time,args | grep moonfork") < 0)
        FAIL("system");
    }
  }
  while (nsockets) /* what a callback has brought */
    close_socket(0);
  const struct owner *o = who_is_not_closed();
  if (o)
    FAIL("%s %d is not closed after %d s", o->kind, o->number, CLOSE_S);
}

static void free_all(void) {
  while (asks) {
    struct ask *a = asks;
    asks = a->next;
    if (!a->told && !a->spare)
      FAIL("%s of %s %d: never told", a->what, a->owner->kind, a->owner->number);
    free(a);
  }
  for (int i = 0; i < ngraves; i++) {
    CHECK(owners[i] || *(int *)graves[i] == 2); /* what was lent was released */
    free(graves[i]);
  }
}

static void check_memory(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  if (telling)
    printf("# %ld MB at most\n", usage.ru_maxrss / 1024);
  if (slowness == 1 &&
      usage.ru_maxrss / 1024 > MEMORY_MB) /* a sanitizer keeps what is freed */
    FAIL("%ld MB of memory", usage.ru_maxrss / 1024);
}

static void on_loop_closed(uv_handle_t *h) {
  (void)h;
}

static int drive_round(uint64_t seed) {
  telling = getenv("DRIVE_TELL") != NULL;
  setvbuf(stdout, NULL, _IOLBF, 0);
  began = round_now();
  static uv_loop_t own;
  char fds[FDS_MAX];
  int quiet_at = (int)random_below(2 * STEPS);
  char text[32];
  snprintf(text, sizeof text, "%llu", (unsigned long long)seed);
  setenv("HOSTILE_SEED", text, 1);
  snprintf(text, sizeof text, "%ld", (long)getpid());
  setenv("HOSTILE_DRIVER", text, 1);
  if (round_is_confined()) {
    setenv("HOSTILE_CONFINED", "1", 1);
    setenv("HOSTILE_VICTIM", getenv("ROUND_STRANGER"), 1);
  }
  memset(bytes, 'x', sizeof bytes);
  loop = &own;
  CHECK(uv_loop_init(loop) == 0);
  uv_timer_init(loop, &timer);
  turn(1, NULL); /* libuv ends the program where its first turn has no descriptors */
  warm_up();
  check_childless();
  list_fds(fds);
  for (int i = 0; i < STEPS; i++) {
    act();
    if (random_one_in(3))
      turn(random_below(random_one_in(8) ? 60 : 8), NULL);
    else if (random_one_in(2))
      turn_once(UV_RUN_NOWAIT);
    if (i == quiet_at && !program && !somebody_hangs)
      check_quiet();
  }
  close_all();
  check_childless();
  compare_fds(fds);
  uv_close((uv_handle_t *)&timer, on_loop_closed);
  double last = round_now() + 3 * slowness;
  while (uv_run(loop, UV_RUN_NOWAIT) && round_now() < last)
    usleep(1000);
  CHECK(!uv_loop_alive(loop));
  CHECK(uv_loop_close(loop) == 0);
  free_all();
  check_memory();
  return 0;
}

static _Noreturn void usage(void) {
  fprintf(stderr, "usage: drive [--seconds S] [--rounds N] [--seed N] [--verbose] "
                  "[--hostile PROGRAM]\n");
  exit(2);
}

int main(int argc, char **argv) {
  static char replay[600];
  struct rounds r = {.name = "random: the C API",
                     .seconds = 10,
                     .deadline_s = 60,
                     .first_seed =
                         (uint64_t)time(NULL) * 1000 + (uint64_t)getpid() % 1000};
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--verbose") == 0)
      r.verbose = 1;
    else if (i + 1 == argc)
      usage();
    else if (strcmp(argv[i], "--seconds") == 0)
      r.seconds = atof(argv[++i]);
    else if (strcmp(argv[i], "--rounds") == 0)
      r.count = atol(argv[++i]);
    else if (strcmp(argv[i], "--seed") == 0)
      r.first_seed = strtoull(argv[++i], NULL, 10), r.count = r.count ? r.count : 1;
    else if (strcmp(argv[i], "--hostile") == 0)
      program = argv[++i];
    else
      usage();
  }
  if (getenv("STORY_SCALE"))
    slowness = atof(getenv("STORY_SCALE"));
  r.deadline_s = (unsigned)(r.deadline_s * slowness);
  if (program) {
    if (!getenv("MOONFORK_TEMPLATE"))
      usage();
    setenv("HOSTILE_REAL", getenv("MOONFORK_TEMPLATE"), 1);
    setenv("MOONFORK_TEMPLATE", program, 1);
    r.name = "random: the C API against a hostile template program";
    r.confined = 1;
  }
  snprintf(replay, sizeof replay, "%s%s%s --seed", argv[0], program ? " --hostile " : "",
           program ? program : "");
  r.replay = replay;
  return rounds_run(&r, drive_round) > 0;
}
