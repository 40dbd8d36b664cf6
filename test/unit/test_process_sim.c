/* The parent's core in random schedules against a model of templates and clones: commands
 * are executed late, processes die in the middle, forks and commands fail, answers arrive
 * torn, handles are closed at any moment. Deterministic by seed; a failing seed is
 * printed and can be played again:
 *
 *   test_process_sim [SCHEDULES [FIRST_SEED]]
 *
 * What must hold in every schedule: each callback exactly once, never inside the call
 * that took it, and before the close callback; an exit after the result of run; a
 * function that was reported as not started was never entered; known exit statuses are
 * the true ones; whatever a template writes into its table of births, only children of
 * ours, and processes that their pidfd names, are signalled and reaped; in the end no
 * record, no descriptor, no child and nothing busy is left. */
#include "parent/api/make.h"
#include "parent/common/fork_watch.h"
#include "parent/private.h"
#include "parent/process/children.h"
#include "parent/process/process.h"
#include "parent/process/registry.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "process_sim_memory.h"
#include "process_sim_model.h"
#include "unit.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- callbacks ---- */

/* What was given away comes back to somebody: 1 when it did. */
static int take_up(struct world *w, int fd);

static void on_finish(mf_process *p, const mf_error *e, int fd, void *data) {
  struct user *u = data;
  struct world *w = u->w;
  CHECK(!w->in_call);
  CHECK(u->want_finish && !u->finish_told && !u->close_told);
  CHECK(!u->exit_told || u->asked_late);
  u->finish_told = 1;
  u->finish_ok = !e;
  CHECK((fd >= 0) == !e);
  if (e) {
    u->started = e->started;
    CHECK(e->code < 0 && e->message);
    u->pid = u->is_run && e->started == MF_STARTED_NO ? mf_pid(p) : 0;
    return;
  }
  if (u->is_run && !w->liars)
    CHECK(mf_pid(p) > 0 && node_by_pid(w, mf_pid(p)) && node_by_pid(w, mf_pid(p))->ran);
  if (!u->is_run && take_up(w, fd))
    return;
  w->sim->backend.ops->close(&w->sim->backend, &fd);
}

static void on_error(mf_process *p, const mf_error *e, void *data) {
  struct user *u = data;
  CHECK(!u->w->in_call && u->want_error && !u->error_told && !u->close_told);
  CHECK(e->code < 0 && e->message);
  u->error_told = 1;
}

static void on_memory(mf_process *p, const mf_error *e, const mf_memory_info *info,
                      void *data) {
  struct user *u = data;
  CHECK(!u->w->in_call && !u->close_told);
  CHECK(!e == !!info);
  u->ntold++;
  CHECK(u->ntold <= u->nwanted);
}

static void on_exit_told(mf_process *p, const mf_exit *x, void *data) {
  struct user *u = data;
  struct world *w = u->w;
  CHECK(!w->in_call && !u->exit_told && !u->close_told);
  u->exit_told = 1;
  u->asked_late = !u->want_finish;
  if (u->want_finish)
    CHECK(u->finish_told);
  if (x->known && p->pid > 0 && !w->liars) {
    struct node *n = node_by_pid(w, p->pid);
    CHECK(n && n->phase == N_DEAD);
    CHECK(x->signal ? n->status == x->signal : n->status == x->code << 8);
  }
}

static void on_close(mf_process *p, void *data) {
  struct user *u = data;
  CHECK(!u->w->in_call && !u->close_told);
  CHECK(!u->want_finish || u->finish_told);
  CHECK(!u->want_exit || u->exit_told);
  CHECK(u->ntold == u->nwanted);
  u->close_told = 1;
}

/* ---- the user ---- */

static struct user *user_new(struct world *w) {
  struct user *u;
  if (w->nuser == USERS)
    return NULL;
  u = &w->user[w->nuser++];
  memset(u, 0, sizeof *u);
  u->w = w;
  u->used = 1;
  return u;
}

/* A program was spawned: its model. */
static void on_spawn(struct sim *s, int pid, int control) {
  struct world *w = s->far_data;
  struct node *n;
  s->inside++;
  n = node_new(w, control, 0);
  CHECK(n);
  s->next_pid--; /* it has one */
  n->pid = pid;
  n->no_siblings = rnd(w, 5) == 0;
  n->lies = w->liars && rnd(w, 2);
  s->inside--;
}

static void on_kill(struct sim *s, int pid, int signum) {
  struct world *w = s->far_data;
  struct node *n = node_by_pid(w, pid);
  CHECK(n);
  if (n->phase != N_DEAD && signum == SIGKILL)
    node_die(w, n, SIGKILL);
}

static int take_up(struct world *w, int fd) {
  struct user *u;
  int r;
  if (w->leaving || rnd(w, 3) == 0 || !(u = user_new(w)))
    return 0;
  r = boot_take_up(w->context, fd, &u->p);
  CHECK(r == 0 || r == MF_ENOMEM || r == -ENOMEM);
  if (r)
    u->closed = u->close_told = 1;
  return 1;
}

static int user_fork(struct world *w, struct user *from, struct user *u) {
  static const char *const env[] = {"A=1", NULL};
  mf_options o = MF_OPTIONS_INIT;
  int r;
  if (rnd(w, 4) == 0)
    o.timeout_ms = 50 + rnd(w, 4000);
  if (rnd(w, 4) == 0)
    o.stdio[rnd(w, 3)] = (mf_stdio){MF_STDIO_FD, 1};
  if (rnd(w, 6) == 0)
    o.env = env;
  r = mf_fork_options(from->p, &o, &u->p);
  CHECK(r == 0 || r == MF_ESTATE || r == MF_ENOMEM);
  return r;
}

static void user_make(struct world *w) {
  mf_options o = MF_OPTIONS_INIT;
  struct user *from = w->nuser ? &w->user[rnd(w, (uint32_t)w->nuser)] : NULL;
  struct user *u;
  int r;
  if (w->nnode > NODES / 2 || !(u = user_new(w)))
    return;
  if (from && from->p && !from->closed && rnd(w, 4)) {
    r = user_fork(w, from, u);
  } else {
    r = context_start(w->context);
    CHECK(r == 0);
    w->sim->spawn_error = rnd(w, 20) ? 0 : -ENOENT;
    if (rnd(w, 4) == 0) {
      o.spares_min = rnd(w, 3);
      o.spares_max = o.spares_min + rnd(w, 4);
    }
    r = process_make(w->context, rnd(w, 3) != 0, &o, &u->p);
    CHECK(r == 0 || r == MF_ENOMEM);
    if (r && !w->context->nopen)
      context_turn(w->context);
    w->sim->spawn_error = 0;
  }
  if (r)
    u->closed = u->close_told = 1;
}

/* As far as the caller may know: done, not possible now, no memory. */
static int asked(int r) {
  CHECK(r == 0 || r == MF_ESTATE || r == MF_ENOMEM);
  return r == 0;
}

static void user_step(struct world *w) {
  struct user *u;
  if (!w->nuser || rnd(w, 5) == 0) {
    user_make(w);
    return;
  }
  u = &w->user[rnd(w, (uint32_t)w->nuser)];
  if (u->closed)
    return;
  switch (rnd(w, 17)) {
  case 0:
  case 1:
  case 2:
    if (!u->want_finish) {
      u->want_finish = u->is_run = asked(mf_run(u->p, "f", on_finish, u));
    }
    break;
  case 3:
    if (!u->want_finish) {
      u->want_finish = asked(mf_to_fd(u->p, on_finish, u));
    }
    break;
  case 4:
  case 5:
    asked(mf_eval(u->p, "code", 4, 0, NULL, NULL));
    break;
  case 6:
    asked(mf_send_arg(u->p, "argument", 8));
    break;
  case 7:
    asked(mf_finish(u->p));
    break;
  case 8:
    if (!u->want_exit) {
      u->want_exit = 1;
      CHECK(mf_on_exit(u->p, on_exit_told, u) == 0);
    }
    break;
  case 9:
    mf_kill(u->p, SIGTERM);
    break;
  case 10:
    if (rnd(w, 3) == 0) {
      u->closed = 1;
      mf_close(u->p, on_close, u);
    }
    break;
  case 11:
    w->sim->send_limit = rnd(w, 3) ? 0 : 1 + rnd(w, 40);
    w->sim->slow_measures = (int)rnd(w, 2);
    if (rnd(w, 10) == 0)
      w->sim->send_error = -ETOOMANYREFS;
    break;
  case 12:
    if (u->nwanted < REQUESTS)
      u->nwanted += asked(mf_memory(u->p, on_memory, u));
    break;
  case 13:
    if (!u->want_error) {
      u->want_error = 1;
      CHECK(mf_on_error(u->p, on_error, u) == 0);
    }
    break;
  case 14:
    asked(mf_send_fd(u->p, 1));
    break;
  case 15:
    asked(mf_take_args(u->p));
    break;
  case 16:
    if (rnd(w, 10) == 0)
      default_reset(w->context);
    break;
  }
}

/* Now and then memory is short for the core, once or for a while. */
static void shorten_memory(struct world *w) {
  failing = w->sim;
  fail_in = w->short_of_memory && rnd(w, 3) == 0 ? 1 + rnd(w, 6) : 0;
  fail_count = 1 + (rnd(w, 4) ? 0 : rnd(w, 5));
}

static void all_told(struct world *w, const char *when) {
  for (int i = 0; i < w->nuser; i++) {
    struct user *u = &w->user[i];
    if (u->closed)
      continue;
    if ((u->want_finish && !u->finish_told) || (u->want_exit && !u->exit_told) ||
        u->ntold != u->nwanted)
      fprintf(stderr,
              "%s: user %d: state %s pid %d: finish %d/%d exit %d/%d memory %d/%d\n",
              when, i, state_names[u->p->state], u->p->pid, u->finish_told,
              u->want_finish, u->exit_told, u->want_exit, u->ntold, u->nwanted);
    CHECK(!u->want_finish || u->finish_told);
    CHECK(!u->want_exit || u->exit_told);
    CHECK(u->ntold == u->nwanted);
  }
}

/* All processes die, and nobody closes anything: whatever was asked for is told. */
static void kill_all(struct world *w) {
  w->sim->send_limit = 0;
  for (int round = 0; round < 60; round++) {
    for (int i = 0; i < w->nnode; i++)
      if (w->node[i].phase != N_DEAD)
        node_die(w, &w->node[i], SIGKILL);
    sim_advance(w->sim, 200);
  }
  all_told(w, "all are dead");
}

static void play(uint32_t seed, int returns) {
  struct world *w = calloc(1, sizeof *w);
  w->rng = seed * 2654435761u + 1;
  w->sim = sim_new();
  w->sim->next_pid = 100;
  w->context = registry_new_on(&w->sim->backend);
  children_forked(); /* no child of an earlier schedule */
  w->context->generation = fork_generation();
  w->sim->far_data = w;
  w->sim->on_spawn = on_spawn;
  w->sim->on_kill = on_kill;
  w->short_of_memory = rnd(w, 3) == 0;
  w->liars = rnd(w, 6) == 0;
  w->returns = returns;
  w->sim->pidfd_error = rnd(w, 6) ? 0 : -ENOSYS;
  w->sim->share_error = rnd(w, 8) ? 0 : -ENOSYS;
  w->sim->tells_status = rnd(w, 2) != 0;
  for (int step = 0; step < STEPS; step++) {
    uint32_t dice = rnd(w, 10);
    if (dice < 3) {
      w->in_call = 1;
      shorten_memory(w);
      user_step(w);
      failing = NULL;
      w->in_call = 0;
    } else if (dice < 7 && w->nnode) {
      node_step(w, &w->node[rnd(w, (uint32_t)w->nnode)]);
    } else if (dice < 9) {
      shorten_memory(w);
      sim_step(w->sim);
      failing = NULL;
    } else {
      w->sim->now_ms += rnd(w, 400);
    }
  }
  w->leaving = 1;
  if (seed % 3 == 0)
    kill_all(w);
  /* Everybody lets go. */
  w->in_call = 1;
  for (int i = 0; i < w->nuser; i++)
    if (!w->user[i].closed) {
      w->user[i].closed = 1;
      mf_close(w->user[i].p, on_close, &w->user[i]);
    }
  w->in_call = 0;
  w->sim->send_limit = 0;
  for (int round = 0; round < 400; round++) {
    for (int i = 0; i < w->nnode; i++)
      node_step(w, &w->node[i]);
    sim_advance(w->sim, 100);
  }
  for (int i = 0; i < w->nuser; i++) {
    struct user *u = &w->user[i];
    if (!u->close_told)
      fprintf(stderr, "seed %u: user %d: state %s, pid %d, nbusy %zu, nopen %zu\n", seed,
              i, state_names[u->p->state], u->p->pid, w->context->nbusy,
              w->context->nopen);
    CHECK(u->close_told);
    CHECK(!u->want_finish || u->finish_told);
    CHECK(!u->want_exit || u->exit_told);
    if (u->pid > 0 && !w->liars && node_by_pid(w, u->pid))
      CHECK(!node_by_pid(w, u->pid)->ran);
  }
  CHECK(w->sim->nmeasures == 0);
  CHECK(w->context->nopen == 0 && w->context->nbusy == 0 && !w->sim->started);
  CHECK(list_empty(&registry_of(w->context)->processes) ||
        (registry_of(w->context)->def.process &&
         registry_of(w->context)->processes.next ==
             registry_of(w->context)->processes.prev));
  children_look_for_births(
      &registry_of(w->context)->children); /* as the next call would */
  children_reap(&w->sim->backend);
  if (!w->short_of_memory && !w->liars)
    for (int i = 0; i < w->nnode; i++)
      CHECK(w->node[i].phase != N_DEAD || !w->sim->children[w->node[i].pid] ||
            (registry_of(w->context)->def.process &&
             registry_of(w->context)->def.process->pid ==
                 w->node[i].pid)); /* the next start sees */
  default_close(w->context);
  sim_run(w->sim);
  CHECK(w->sim->stopped);
  for (int i = 0; i < w->nnode; i++)
    buf_deinit(&w->node[i].inner);
  CHECK(sim_free(w->sim) == 0);
  free(w);
}

static unsigned schedules = 3000, first_seed = 1;

/* Those that once found something. */
static void test_schedules_that_failed_once(void **state) {
  static const uint32_t seeds[] = {
      10267, /* a clone's number in the slots of its template's former owner */
      10569, /* a clone that was born when its source failed, and was called never born */
  };
  for (size_t i = 0; i < sizeof seeds / sizeof seeds[0]; i++)
    play(seeds[i], 0);
}

static void test_random_schedules(void **state) {
  for (unsigned i = 0; i < schedules; i++) {
    if (getenv("MOONFORK_SIM_VERBOSE"))
      fprintf(stderr, "seed %u\n", first_seed + i);
    play(first_seed + i, (first_seed + i) % 2);
  }
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_schedules_that_failed_once),
                                     cmocka_unit_test(test_random_schedules)};
  if (argc > 1)
    schedules = (unsigned)atoi(argv[1]);
  if (argc > 2)
    first_seed = (unsigned)atoi(argv[2]);
  printf("# %u schedules from seed %u\n", schedules, first_seed);
  return cmocka_run_group_tests_name("process in random schedules", tests, NULL, NULL);
}
