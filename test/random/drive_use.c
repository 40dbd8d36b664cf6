/* drive: what is done with processes, rpcs and pools. */
#include "drive.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>

/* ---- processes ---- */

static struct proc **free_place(void) {
  for (int i = 0; i < PROCS; i++)
    if (!procs[i])
      return &procs[i];
  return NULL;
}

static void some_isolation(int *isolation, int *lazy) {
  if (random_one_in(3))
    *isolation = MF_ISOLATION_THREAD;
  if (random_one_in(6))
    *lazy = (int)random_below(3);
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
  free_later(it, &it->owner);
  if (random_one_in(2))
    ask_exit(it);
}

static void teach(mf_process *p) {
  DO(mf_eval(p, functions, strlen(functions), 0, NULL, NULL));
}

void make_proc(void) {
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

void fork_proc(void) {
  struct proc *it = a_proc();
  mf_process *p = NULL;
  mf_options o;
  int r;
  if (!it || !free_place() || it->taken)
    return;
  some_options(&o);
  some_isolation(&o.isolation, &o.lazy);
  r = random_one_in(2) ? CALL(mf_fork(it->p, &p)) : CALL(mf_fork_options(it->p, &o, &p));
  CHECK((r == 0) == (p != NULL));
  if (p)
    add_proc(p);
  it->has_threads |= p && o.isolation == MF_ISOLATION_THREAD;
}

static void lend(mf_process *p) {
  int *lent = malloc(sizeof *lent);
  *lent = 1;
  free_later(lent, NULL);
  int r = CALL(mf_send_arg_ref(p, bytes, a_size(), on_release, lent));
  CHECK(r == 0 || *lent == 2); /* exactly once, also on failure */
}

void prepare_proc(void) {
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
  if (random_one_in(60) && !it->has_threads) { /* closing it ends it all the same */
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

void run_proc(void) {
  struct proc *it = a_proc();
  if (!it || it->taken)
    return;
  tell("asking", &it->owner);
  struct ask *a = ask_new("run", &it->owner);
  a->quiet = program != NULL; /* it may never answer */
  ask_settle(a, random_one_in(12) ? CALL(mf_to_fd(it->p, on_run, a))
                                  : CALL(mf_run(it->p, a_function(), on_run, a)));
}

void adopt(void) {
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

void ask_proc(void) {
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

void close_proc(int i) {
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

void make_rpc(void) {
  struct rpc **place = &rpcs[random_below(RPCS)];
  struct proc *from;
  mf_process *p = take_proc(&from);
  mf_rpc_options o;
  if (*place || !p)
    return;
  struct rpc *it = calloc(1, sizeof *it);
  it->owner = (struct owner){.kind = "rpc", .open = 1, .number = nowners++};
  free_later(it, &it->owner);
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

void use_rpc(void) {
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

void close_rpc(int i) {
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

void make_pool(void) {
  struct pool **place = &pools[random_below(POOLS)];
  struct proc *from;
  mf_process *p = take_proc(&from);
  mf_rpc_options ro;
  mf_pool_options o;
  if (*place || !p)
    return;
  struct pool *it = calloc(1, sizeof *it);
  it->owner = (struct owner){.kind = "pool", .open = 1, .number = nowners++};
  free_later(it, &it->owner);
  some_rpc_options(&ro);
  ro.on_event = on_event;
  ro.on_error = on_pool_trouble;
  ro.data = it;
  mf_pool_options_init(&o);
  o.rpc = &ro;
  o.max = random_below(4);
  o.load = random_below(4);
  o.tree = (int)random_below(3);
  some_isolation(&o.isolation, &o.lazy);
  it->has_threads = o.isolation == MF_ISOLATION_THREAD;
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
  if (!program && n && n <= 8 && !it->has_threads) /* nobody else has reaped them */
    kill(pids[random_below((uint32_t)n)], random_one_in(2) ? SIGKILL : SIGTERM);
}

void use_pool(void) {
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

void close_pool(int i) {
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
