/* drive --threads: templates whose clones run in threads, and are stopped, killed, closed,
 * withdrawn and left in any order; beside them clones that are processes, rpcs, pools of
 * threads, and copies of the host that hold its descriptors.
 *
 * A round has several lives: in each, templates are made and used, everything is closed,
 * and the loop runs until it is empty. Sockets of functions may be kept from life to life.
 * What must hold, beside what drive.c says of callbacks, descriptors and children:
 *
 *   - a function that runs echoes, unless it was killed or its socket closed, or, in a
 *     thread, its template's process was killed, has ended itself (it is lost), or is
 *     stopped
 *   - when everything is closed the loop is empty within CLOSE_S, whatever is stopped
 *   - then the process of each template that holds no thread has ended and was reaped
 *   - a template that holds some ends when their sockets are closed
 *
 * Not promised: a template that hangs in a command of its own when the loop ends, while
 * clones run in it, ends with the host only. */
#include "drive.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>

enum {
  LIVES = 2,
  TEMPLATES = 3, /* of a life */
  CLONES = 5,    /* of a template */
  COPIES = 3,
  ECHO_S = 10,
  GONE_S = 10
};

struct clone {
  struct proc proc;
  struct rpc *rpc;
  struct ask *run;
  int is_thread;
  int runs;   /* perhaps: it was given a function */
  int killed; /* perhaps */
  int socket; /* of its function, or -1 */
};

struct template {
  struct proc proc;
  struct pool *pool; /* that has taken it */
  struct ask *run;
  pid_t pid;
  int is_stopped, is_lost, hangs;
  struct clone *clones[CLONES];
  int nclones;
};

static struct template *templates[LIVES * TEMPLATES];
static int ntemplates; /* the last TEMPLATES are those of this life */
static pid_t copies[COPIES];

static const char code[] = "function echo(x) return x end\n"
                           "function hang() while true do end end\n"
                           "function sleep() os.execute 'exec sleep 0.1' end\n"
                           "function echoes(s)\n"
                           "  for l in s:lines() do s:write(l, '\\n') end\n"
                           "end\n";

/* ---- what must hold ---- */

static int must_live(const struct template *t, const struct clone *c) {
  return c->socket >= 0 && !c->killed && !(c->is_thread && (t->is_lost || t->is_stopped));
}

static void check_echo(const struct clone *c) {
  struct pollfd p = {.fd = c->socket, .events = POLLIN};
  char text[2];
  if (send(c->socket, "x\n", 2, MSG_NOSIGNAL) != 2 ||
      poll(&p, 1, (int)(1000 * ECHO_S * slowness)) != 1 || read(c->socket, text, 2) <= 0)
    FAIL("clone %d does not echo", c->proc.owner.number);
}

static void check_echoes(void) {
  for (int i = 0; i < ntemplates; i++)
    for (int k = 0; k < templates[i]->nclones; k++)
      if (must_live(templates[i], templates[i]->clones[k]))
        check_echo(templates[i]->clones[k]);
}

static int holds_threads(const struct template *t) {
  int n = 0;
  for (int k = 0; k < t->nclones; k++)
    n += t->clones[k]->is_thread && t->clones[k]->runs && !t->clones[k]->rpc;
  return n;
}

static int has_ended(pid_t pid) {
  siginfo_t info = {0};
  return kill(pid, 0) < 0 ||
         (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
          info.si_pid);
}

/* What was killed may take its time in the kernel; what has ended was reaped. */
static void check_gone(const struct template *t) {
  char command[80];
  if (t->pid <= 0 || holds_threads(t) || kill(t->pid, 0) < 0)
    return;
  int is_zombie = has_ended(t->pid);
  for (double last = round_now() + GONE_S * slowness;
       round_now() < last && !has_ended(t->pid);)
    usleep(5000);
  if (has_ended(t->pid) && !is_zombie)
    return;
  snprintf(command, sizeof command, "ps -L -o pid,lwp,stat,wchan:20,time,args -p %d >&2",
           (int)t->pid);
  if (system(command) < 0)
    FAIL("system");
  FAIL("the process of template %d is still there%s%s%s", t->proc.owner.number,
       t->is_stopped ? ", stopped" : "", t->is_lost ? ", lost" : "",
       t->pool ? ", of a pool" : "");
}

/* ---- templates ---- */

static void make_template(void) {
  struct template *t = calloc(1, sizeof *t);
  mf_options o;
  CHECK(t);
  mf_options_init(&o);
  o.loop = loop;
  o.stdio[2].kind = MF_STDIO_NULL;
  t->proc.owner = (struct owner){.kind = "template", .open = 1, .number = nowners++};
  free_later(t, &t->proc.owner);
  if (random_one_in(3))
    CHECK(CALL(mf_new(&o, &t->proc.p)) == 0);
  else
    CHECK(CALL(mf_new_exec(&o, &t->proc.p)) == 0);
  CHECK(CALL(mf_eval(t->proc.p, code, sizeof code - 1, 0, NULL, NULL)) == 0);
  templates[ntemplates++] = t;
}

static struct template *a_template(void) {
  return templates[ntemplates - 1 - (int)random_below(TEMPLATES)];
}

static int is_usable(const struct template *t) {
  return t->proc.owner.open && !t->proc.taken;
}

/* Signals it if it is a child that nobody has reaped. */
static int signal_template(const struct template *t, int signum) {
  siginfo_t info = {0};
  return t->pid > 0 &&
         waitid(P_PID, (id_t)t->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         kill(t->pid, signum) == 0;
}

static void learn_pid(struct template *t) {
  int pid = is_usable(t) ? mf_pid(t->proc.p) : -1;
  if (pid > 0)
    t->pid = pid;
}

static void stop_template(struct template *t) {
  tell("stopping", &t->proc.owner);
  if (signal_template(t, SIGSTOP))
    t->is_stopped = 1;
}

static void continue_template(struct template *t) {
  tell("continuing", &t->proc.owner);
  if (signal_template(t, SIGCONT))
    t->is_stopped = 0;
}

static void kill_template(struct template *t) {
  tell("killing", &t->proc.owner);
  t->is_lost = 1;
  signal_template(t, SIGKILL);
}

static void let_do(const struct template *t, const char *text) {
  DO(mf_eval(t->proc.p, text, strlen(text), 0, NULL, NULL));
}

static void close_template(struct template *t) {
  if (!is_usable(t))
    return;
  learn_pid(t);
  t->proc.owner.open = 0;
  tell("closing", &t->proc.owner);
  DO(mf_close(t->proc.p, on_proc_closed, &t->proc));
}

static void on_template_run(mf_process *p, const mf_error *e, int fd, void *data) {
  struct template *t = data;
  (void)p;
  ask_told(t->run);
  check_error(e);
  t->is_lost |= !e;
  if (fd >= 0)
    close(fd);
}

/* Its own function is withdrawn by the close, as a rule before it is entered. */
static void give_up(struct template *t) {
  if (t->run)
    return;
  let_do(t, "os.execute 'exec sleep 0.2'");
  t->run = ask_new("run", &t->proc.owner);
  ask_settle(t->run, CALL(mf_run(t->proc.p, "echoes", on_template_run, t)));
  close_template(t);
}

/* Its number is known, so that it can be ended with the round, too. */
static void hang_template(struct template *t) {
  if (t->pid <= 0)
    return;
  let_do(t, "while true do end");
  t->hangs = 1;
  close_template(t);
}

static void end_template(struct template *t) {
  if (!is_usable(t))
    return;
  switch (random_below(8)) {
  case 0:
    let_do(t, "error 'x'");
    break;
  case 1:
    give_up(t);
    break;
  case 2:
    DO(mf_finish(t->proc.p));
    break;
  case 3:
    hang_template(t);
    break;
  case 4:
    let_do(t, "os.exit(4)");
    t->is_lost = 1;
    break;
  case 5:
    kill_template(t);
    break;
  default:
    close_template(t);
  }
}

/* ---- clones ---- */

static void fork_clone(struct template *t) {
  mf_options o;
  mf_process *p = NULL;
  if (!is_usable(t) || t->nclones == CLONES)
    return;
  mf_options_init(&o);
  o.isolation = random_one_in(5) ? MF_ISOLATION_PROCESS : MF_ISOLATION_THREAD;
  if (o.isolation == MF_ISOLATION_THREAD && random_one_in(3))
    o.lazy = MF_LAZY_TRY;
  if (random_one_in(8))
    o.timeout_ms = 1 + random_below(300);
  if (CALL(mf_fork_options(t->proc.p, &o, &p)) < 0)
    return;
  struct clone *c = calloc(1, sizeof *c);
  CHECK(c);
  *c = (struct clone){
      .proc = {.owner = {.kind = "clone", .open = 1, .number = nowners++}, .p = p},
      .is_thread = o.isolation == MF_ISOLATION_THREAD,
      .socket = -1};
  free_later(c, &c->proc.owner);
  t->clones[t->nclones++] = c;
  if (random_one_in(2))
    return;
  struct ask *a = ask_new("on_exit", &c->proc.owner);
  a->quiet = 1;
  CHECK(CALL(mf_on_exit(p, on_exit_told, a)) == 0);
}

static struct clone *a_clone(const struct template *t) {
  return t->nclones ? t->clones[random_below((uint32_t)t->nclones)] : NULL;
}

static void on_started(mf_process *p, const mf_error *e, int fd, void *data) {
  struct clone *c = data;
  (void)p;
  ask_told(c->run);
  check_error(e);
  CHECK((e != NULL) == (fd < 0));
  c->socket = fd;
  if (e && e->started == MF_STARTED_NO)
    c->runs = 0;
  maybe_act();
}

static int is_unused(const struct clone *c) {
  return c->proc.owner.open && !c->proc.taken && !c->run;
}

static void run_clone(struct clone *c) {
  if (!is_unused(c))
    return;
  c->run = ask_new("run", &c->proc.owner);
  c->runs = 1;
  tell("asking", &c->proc.owner);
  ask_settle(c->run, CALL(mf_run(c->proc.p, "echoes", on_started, c)));
  c->runs = !c->run->told;
}

static void close_clone(struct clone *c) {
  if (!c->proc.owner.open || c->proc.taken)
    return;
  c->proc.owner.open = 0;
  tell("closing", &c->proc.owner);
  DO(mf_close(c->proc.p, on_proc_closed, &c->proc));
}

static void close_its_socket(struct clone *c) {
  if (c->socket >= 0)
    close(c->socket);
  c->socket = -1;
}

static void kill_clone(struct clone *c) {
  if (c->proc.owner.open && !c->proc.taken)
    c->killed |= CALL(mf_kill(c->proc.p, SIGKILL)) == 0; /* never of a thread */
}

/* ---- rpcs and pools ---- */

static const char *a_called_function(void) {
  static const char *const list[] = {"echo", "echo", "echo", "hang", "sleep"};
  return PICK(list);
}

static void some_rpc_options(mf_rpc_options *o, void *data) {
  mf_rpc_options_init(o);
  o->grace_ms = 1 + random_below(500);
  o->on_event = on_event;
  o->data = data;
}

static void a_call(struct owner *owner, mf_rpc *rpc, mf_pool *pool) {
  struct ask *a = ask_new("call", owner);
  const mf_message m = {bytes, random_below(1000), NULL, 0};
  ask_settle(a, rpc ? CALL(mf_rpc_call(rpc, &m, NULL, on_reply, a, NULL))
                    : CALL(mf_pool_call(pool, &m, NULL, on_reply, a, NULL)));
}

static void make_rpc_of(struct clone *c) {
  mf_rpc_options o;
  if (!is_unused(c))
    return;
  struct rpc *it = calloc(1, sizeof *it);
  CHECK(it);
  it->owner = (struct owner){.kind = "rpc", .open = 1, .number = nowners++};
  free_later(it, &it->owner);
  some_rpc_options(&o, it);
  o.on_error = on_trouble;
  o.on_close = on_rpc_end;
  CHECK(CALL(mf_rpc_new(c->proc.p, a_called_function(), &o, &it->rpc)) == 0);
  c->rpc = it;
  c->proc.taken = c->runs = 1;
}

static void use_rpc_of(struct clone *c) {
  if (c->rpc && c->rpc->owner.open)
    a_call(&c->rpc->owner, c->rpc->rpc, NULL);
  else
    make_rpc_of(c);
}

static void close_rpc_of(struct clone *c) {
  struct rpc *it = c->rpc;
  if (!it || !it->owner.open)
    return;
  it->owner.open = 0;
  if (random_one_in(2))
    DO(mf_rpc_abort(it->rpc));
  tell("closing", &it->owner);
  DO(mf_rpc_close(it->rpc, on_rpc_closed, it));
}

static void make_pool_of(struct template *t) {
  mf_rpc_options ro;
  mf_pool_options o;
  if (!is_usable(t))
    return;
  learn_pid(t);
  struct pool *it = calloc(1, sizeof *it);
  CHECK(it);
  it->owner = (struct owner){.kind = "pool", .open = 1, .number = nowners++};
  free_later(it, &it->owner);
  some_rpc_options(&ro, it);
  ro.on_error = on_pool_trouble;
  mf_pool_options_init(&o);
  o.rpc = &ro;
  o.max = 1 + random_below(3);
  o.idle = random_below(o.max + 1);
  o.grace_ms = ro.grace_ms;
  o.isolation = MF_ISOLATION_THREAD;
  o.lazy = random_one_in(3) ? MF_LAZY_TRY : MF_LAZY_NO;
  if (random_one_in(2))
    o.call_timeout_ms = 5 + random_below(200);
  if (random_one_in(3))
    o.max_calls = 1 + random_below(5);
  int r = CALL(mf_pool_new(t->proc.p, a_called_function(), &o, &it->pool));
  it->owner.open = r == 0;
  it->owner.closed = r < 0; /* of one that takes no more */
  if (r < 0)
    return;
  t->pool = it;
  t->proc.taken = 1;
}

static void close_pool_of(struct template *t) {
  struct pool *it = t->pool;
  if (!it || !it->owner.open)
    return;
  it->owner.open = 0;
  if (random_one_in(2))
    DO(mf_pool_abort(it->pool));
  tell("closing", &it->owner);
  DO(mf_pool_close(it->pool, on_pool_closed, it));
}

static void use_pool_of(struct template *t) {
  struct pool *it = t->pool;
  if (!it || !it->owner.open)
    return;
  for (unsigned n = 1 + random_below(6); n; n--)
    a_call(&it->owner, NULL, it->pool);
  if (random_one_in(8))
    DO(mf_pool_resize(it->pool, 1 + random_below(4)));
}

/* ---- copies of the host ---- */

/* It holds what is open now. */
static void copy_host(void) {
  pid_t *place = &copies[random_below(COPIES)], pid;
  if (*place > 0)
    return;
  pid = fork();
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;)
      pause();
  }
  CHECK(pid > 0);
  *place = pid;
  if (telling)
    printf("# a copy of the host\n");
}

static void end_copies(void) {
  for (int i = 0; i < COPIES; i++) {
    if (copies[i] <= 0)
      continue;
    kill(copies[i], SIGKILL);
    CHECK(waitpid(copies[i], NULL, 0) == copies[i]);
    copies[i] = 0;
  }
}

/* ---- a round ---- */

static void use_clone(struct clone *c) {
  switch (random_below(11)) {
  case 0:
  case 1:
  case 2:
  case 3:
    run_clone(c);
    break;
  case 4:
  case 5:
    use_rpc_of(c);
    break;
  case 6:
    close_rpc_of(c);
    break;
  case 7:
  case 8:
    close_clone(c);
    break;
  case 9:
    close_its_socket(c);
    break;
  default:
    kill_clone(c);
  }
}

static void use_template(struct template *t) {
  learn_pid(t);
  switch (random_below(12)) {
  case 0:
  case 1:
  case 2:
  case 3:
    fork_clone(t);
    break;
  case 4:
    stop_template(t);
    break;
  case 5:
    continue_template(t);
    break;
  case 6:
    if (random_one_in(3))
      end_template(t);
    break;
  case 7:
    if (random_one_in(5))
      make_pool_of(t);
    break;
  case 8:
  case 9:
    use_pool_of(t);
    break;
  case 10:
    if (random_one_in(3))
      close_pool_of(t);
    break;
  default:
    if (random_one_in(4))
      copy_host();
    else if (random_one_in(3))
      DO(mf_reset(loop));
  }
}

static void act_with_threads(void) {
  struct template *t = a_template();
  struct clone *c = a_clone(t);
  if (c && random_one_in(2))
    use_clone(c);
  else
    use_template(t);
}

static void close_all_of(struct template *t) {
  int templates_first = random_one_in(2);
  if (templates_first)
    close_template(t);
  close_pool_of(t);
  for (int k = 0; k < t->nclones; k++) {
    close_clone(t->clones[k]);
    close_rpc_of(t->clones[k]);
    if (random_one_in(3))
      close_its_socket(t->clones[k]);
  }
  close_template(t);
}

static void on_overdue(uv_timer_t *timer) {
  (void)timer;
  mf_dump(loop, stderr);
  FAIL("the loop is not empty after %.0f s", CLOSE_S * slowness);
}

static void run_to_the_end(void) {
  static uv_timer_t overdue;
  uv_timer_init(loop, &overdue);
  uv_unref((uv_handle_t *)&overdue);
  uv_timer_start(&overdue, on_overdue, (uint64_t)(1000 * CLOSE_S * slowness), 0);
  uv_run(loop, UV_RUN_DEFAULT);
  uv_close((uv_handle_t *)&overdue, NULL);
  uv_run(loop, UV_RUN_DEFAULT);
}

static int nothing_is_asked(void) {
  return nasked(0) == 0;
}

/* Programs with a sanitizer take longer to start than a life. */
static void await_templates(void) {
  for (int i = ntemplates - TEMPLATES; i < ntemplates; i++) {
    struct ask *a = ask_new("memory", &templates[i]->proc.owner);
    ask_settle(a, CALL(mf_memory(templates[i]->proc.p, on_memory, a)));
  }
  turn((unsigned)(5000 * slowness), nothing_is_asked);
}

static void live(void) {
  for (int i = 0; i < TEMPLATES; i++)
    make_template();
  if (!random_one_in(4))
    await_templates();
  for (unsigned n = 20 + random_below(100); n; n--) {
    act();
    if (!random_one_in(3))
      continue;
    turn(random_below(random_one_in(60) ? 3000 : 15), NULL);
    check_echoes();
  }
  closing_all = 1;
  for (int i = ntemplates - TEMPLATES; i < ntemplates; i++)
    close_all_of(templates[i]);
  DO(mf_reset(loop));
  run_to_the_end();
  CHECK(everything_is_closed());
  for (int i = ntemplates - TEMPLATES; i < ntemplates; i++)
    check_gone(templates[i]);
  check_echoes();
  closing_all = 0;
}

void play_threads(void) {
  act = act_with_threads;
  for (int i = 0; i < LIVES; i++)
    live();
  end_copies();
  for (int i = 0; i < ntemplates; i++) {
    struct template *t = templates[i];
    signal_template(t, t->hangs ? SIGKILL : SIGCONT);
    for (int k = 0; k < t->nclones; k++)
      close_its_socket(t->clones[k]);
  }
}
