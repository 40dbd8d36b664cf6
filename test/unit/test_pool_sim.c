/* A pool in random schedules against a ledger: calls of every kind, cancelled and timed
 * out, workers that answer, raise, retire, die and are stopped, templates that die or
 * fail to load, forks that fail, reloads, resizes, drains. Deterministic by seed; a
 * failing seed is printed and can be played again:
 *
 *   test_pool_sim [SCHEDULES [FIRST_SEED]]
 *
 * What must hold in every schedule: each call's callback exactly once, never inside the
 * call that took it, and before the close callback; a call that was reported as not
 * started was never entered; none was entered twice unless it may (and three times at
 * most); answers are those of the call; never more workers than allowed; in the end
 * nothing is left. */
#include "help/far.h"
#include "parent/common/fork_watch.h"
#include "parent/process/registry.h"
#include "parent/rpc/rpc.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "unit.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum { CALLS = 400, STEPS = 250 };

struct ledger {
  int told, code, started, entered, idempotent;
  uint64_t id;
};

struct world {
  struct sim *sim;
  struct far *far;
  struct context *context;
  mf_pool *pool;
  mf_pool_options options;
  mf_rpc_options rpc;
  struct ledger call[CALLS];
  int ncalls, in_call, drained, gone, reloads, reloaded;
  unsigned char worker[100000]; /* by pid: 1 it has started, 2 it has ended */
  int told_before_end;
  unsigned max, seed;
  uint32_t rng;
};

static struct world *now;

static uint32_t rnd(struct world *w, uint32_t n) {
  w->rng ^= w->rng << 13;
  w->rng ^= w->rng >> 17;
  w->rng ^= w->rng << 5;
  return w->rng % n;
}

#define CHECK(x)                                                                         \
  do {                                                                                   \
    if (!(x)) {                                                                          \
      fprintf(stderr, "%s:%d: seed %u: %s\n", __FILE__, __LINE__, now->seed, #x);        \
      abort();                                                                           \
    }                                                                                    \
  } while (0)

/* ---- callbacks ---- */

static void on_reply(const mf_error *e, const mf_message *m, void *data) {
  struct ledger *l = data;
  CHECK(!now->in_call && !l->told && !now->gone);
  l->told = 1;
  l->code = e ? e->code : 0;
  l->started = e ? e->started : MF_STARTED_UNKNOWN;
  if (e && e->started == MF_STARTED_NO)
    CHECK(!l->entered);
  if (m) {
    uint64_t word;
    CHECK(m->length == 8);
    memcpy(&word, m->data, 8);
    CHECK(word == (uint64_t)(l - now->call));
  }
}

static void on_drained(mf_pool *pool, const mf_error *e, void *data) {
  CHECK(!now->in_call && !now->drained && !now->gone);
  mf_drain_report r = {.size = sizeof r};
  now->drained = 1;
  for (int i = 0; i < now->ncalls; i++)
    CHECK(now->call[i].told);
  CHECK(mf_pool_drain_report(pool, &r) == 0);
  CHECK(r.answered + r.dropped + r.interrupted ==
        (uint64_t)(now->ncalls - now->told_before_end));
}

static void on_worker(int event, int pid, const char *reason, void *data) {
  CHECK(!now->in_call && !now->gone && *reason);
  CHECK(pid > 0 && (size_t)pid < sizeof now->worker);
  CHECK(now->worker[pid] == (event == MF_WORKER_STARTED ? 0 : 1));
  now->worker[pid]++;
}

static void on_reloaded(mf_pool *pool, const mf_error *e, void *data) {
  CHECK(!now->in_call && !now->gone);
  now->reloaded++;
}

static void on_gone(mf_pool *pool, void *data) {
  CHECK(!now->in_call && !now->gone);
  now->gone = 1;
  for (size_t pid = 0; pid < sizeof now->worker; pid++)
    CHECK(now->worker[pid] != 1);
}

/* ---- the far side ---- */

/* What a worker has entered by now: all that it knows, or the first. */
static void note_entered(struct world *w, struct far_node *n) {
  int most = w->rpc.async ? n->ncalls : n->ncalls < 1 ? n->ncalls : 1;
  if (n->kind != FAR_WORKER || !n->ready)
    return;
  for (int i = 0; i < most; i++) {
    struct ledger *l = &w->call[n->word[i] & 0xffffff];
    if (n->word[i] >> 32)
      continue; /* noted */
    n->word[i] |= UINT64_C(1) << 32;
    l->entered++;
    CHECK(!(l->told && l->started == MF_STARTED_NO));
    CHECK(l->entered == 1 || (l->idempotent && l->entered <= 3));
  }
}

static void answer(struct world *w, struct far_node *n) {
  int i = w->rpc.async ? (int)rnd(w, (uint32_t)n->ncalls) : 0;
  uint64_t word = n->word[i] & 0xffffff;
  if (!n->ready || !n->ncalls)
    return;
  note_entered(w, n);
  if (rnd(w, 8) == 0) {
    far_error(w->far, n, i, 1);
  } else {
    far_say(w->far, n, RPC_RESULT, n->call[i], &word, 8);
    n->ncalls--;
    memmove(&n->call[i], &n->call[i + 1], sizeof n->call[0] * (size_t)(n->ncalls - i));
    memmove(&n->word[i], &n->word[i + 1], sizeof n->word[0] * (size_t)(n->ncalls - i));
  }
  note_entered(w, n);
}

static void far_steps(struct world *w) {
  struct far_node *n = w->far->n ? w->far->node[rnd(w, (uint32_t)w->far->n)] : NULL;
  unsigned char usage[16] = {0, 0, (unsigned char)rnd(w, 40)};
  if (!n || n->kind == FAR_DEAD)
    return;
  if (n->kind == FAR_TEMPLATE) {
    far_read(w->far, n);
    if (rnd(w, 150) == 0)
      far_die(w->far, n, SIGKILL);
    return;
  }
  switch (rnd(w, 14)) {
  case 0:
    if (!n->ready && n->kind == FAR_WORKER)
      rnd(w, 12) ? far_ready(w->far, n) : far_fail(w->far, n);
    break;
  case 1:
    if (rnd(w, 6) == 0)
      far_die(w->far, n, rnd(w, 2) ? SIGSEGV : 0);
    break;
  case 2:
    if (n->ready && rnd(w, 5) == 0)
      far_say(w->far, n, RPC_RETIRE, 0, NULL, 0);
    break;
  case 3:
    if (n->ready)
      far_say(w->far, n, RPC_USAGE, 0, usage, 16);
    break;
  case 4:
    if (n->ready)
      far_say(w->far, n, RPC_EVENT, 0, "e", 1);
    break;
  case 5:
  case 6:
  case 7:
  case 8:
    far_read(w->far, n);
    note_entered(w, n);
    break;
  default:
    if (n->ncalls)
      answer(w, n);
  }
  if (n->kind == FAR_WORKER)
    note_entered(w, n);
}

/* ---- the user ---- */

static void make_call(struct world *w) {
  struct ledger *l = &w->call[w->ncalls];
  uint64_t word = (uint64_t)w->ncalls;
  mf_call_options o = MF_CALL_OPTIONS_INIT;
  mf_message m = {&word, 8, NULL, 0};
  int r;
  if (w->ncalls == CALLS)
    return;
  o.idempotent = l->idempotent = rnd(w, 4) == 0;
  if (rnd(w, 5) == 0)
    o.timeout_ms = 1 + rnd(w, 2000);
  r = mf_pool_call(w->pool, &m, &o, on_reply, l, &l->id);
  CHECK(r == 0 || r == MF_ELIMIT || r == MF_ECLOSED);
  if (!r)
    w->ncalls++;
}

static mf_process *make_template(struct world *w) {
  mf_process *t;
  CHECK(boot_exec(w->context, NULL, &t) == 0);
  CHECK(mf_eval(t, "code", 4, 0, NULL, NULL) == 0);
  return t;
}

static void reload(struct world *w) {
  mf_process *t;
  int r;
  if (w->far->n > FAR_NODES / 2)
    return;
  if (rnd(w, 3) == 0) {
    if (rnd(w, 5) == 0)
      w->far->fork_failures++;
    r = mf_pool_promote(w->pool, on_reloaded, w);
    CHECK(r == 0 || r == MF_ECLOSED || (r == MF_EUNSUPPORTED && w->rpc.async));
    w->reloads += !r;
    return;
  }
  if (rnd(w, 5) == 0)
    w->far->broken_loads++;
  t = make_template(w);
  r = rnd(w, 2) ? mf_pool_reload(w->pool, t, on_reloaded, w)
                : mf_pool_add(w->pool, t, on_reloaded, w);
  CHECK(r == 0 || r == MF_ECLOSED);
  if (r)
    mf_close(t, NULL, NULL);
  else
    w->reloads++;
}

static void user_step(struct world *w) {
  switch (rnd(w, 24)) {
  case 0:
    mf_pool_resize(w->pool, w->max = rnd(w, 5));
    break;
  case 1:
    if (w->ncalls)
      mf_pool_cancel(w->pool, w->call[rnd(w, (uint32_t)w->ncalls)].id);
    break;
  case 2:
    if (rnd(w, 2) == 0)
      reload(w);
    break;
  case 3:
    if (rnd(w, 10) == 0)
      w->far->fork_failures++;
    break;
  case 4:
    w->sim->send_limit = rnd(w, 3) ? 0 : 1 + rnd(w, 50);
    break;
  default:
    make_call(w);
  }
}

static unsigned seen_templates;

static void check_workers(struct world *w) {
  mf_pool_info s = {.size = sizeof s};
  if (w->gone || mf_pool_stats(w->pool, &s) < 0)
    return;
  CHECK(s.workers <= 1000 && s.idle <= s.workers &&
        s.queued <= w->options.queue_max + 100);
  CHECK(s.running <= 1000);
  CHECK(s.templates > 0 || s.state != MF_POOL_RUNNING);
  if (seen_templates < s.templates)
    seen_templates = s.templates;
}

static void set_up(struct world *w) {
  w->sim = sim_new();
  w->far = far_new(w->sim);
  w->far->slow_hello = 1;
  w->context = registry_new_on(&w->sim->backend);
  w->context->generation = fork_generation();
  context_start(w->context);
  mf_pool_options_init(&w->options);
  mf_rpc_options_init(&w->rpc);
  w->rpc.async = rnd(w, 3) == 0;
  w->options.rpc = &w->rpc;
  w->options.on_worker = on_worker;
  w->options.max = w->max = 1 + rnd(w, 4);
  w->options.idle = rnd(w, w->options.max + 1);
  w->options.load = 1 + rnd(w, 3);
  w->options.start_ms = rnd(w, 3) * 50;
  w->options.stop_ms = rnd(w, 3) * 100;
  w->options.queue_max = rnd(w, 3) ? 1000 : rnd(w, 5);
  w->options.max_calls = rnd(w, 3) ? 0 : 1 + rnd(w, 10);
  w->options.max_memory = rnd(w, 3) ? 0 : 1 << 20;
  if (rnd(w, 2))
    w->options.call_timeout_ms = 100 + rnd(w, 3000);
  w->options.grace_ms = rnd(w, 2) * 3000;
  w->options.restart_burst = rnd(w, 20);
  CHECK(mf_pool_new(make_template(w), "f", &w->options, &w->pool) == 0);
}

static void play_steps(struct world *w) {
  for (int step = 0; step < STEPS; step++) {
    uint32_t dice = rnd(w, 10);
    if (dice < 2) {
      w->in_call = 1;
      user_step(w);
      w->in_call = 0;
    } else if (dice < 7) {
      far_steps(w);
    } else if (dice < 9) {
      far_notice(w->far);
      sim_step(w->sim);
    } else {
      w->sim->now_ms += rnd(w, 300);
    }
    check_workers(w);
  }
}

static void finish(struct world *w) {
  w->in_call = 1;
  for (int i = 0; i < w->ncalls; i++)
    w->told_before_end += w->call[i].told;
  if (rnd(w, 3) == 0)
    CHECK(mf_pool_drain(w->pool, rnd(w, 2) ? rnd(w, 1000) : MF_NO_TIMEOUT, on_drained,
                        w) == 0);
  if (rnd(w, 5) == 0)
    mf_pool_abort(w->pool);
  mf_pool_close(w->pool, on_gone, w);
  w->in_call = 0;
  w->sim->send_limit = 0;
  w->far->slow_hello = rnd(w, 2);
  for (int round = 0; round < 600 && !w->gone; round++) {
    for (int i = 0; i < w->far->n; i++) {
      struct far_node *n = w->far->node[i];
      far_notice(w->far);
      far_read(w->far, n);
      note_entered(w, n);
      if (n->kind != FAR_WORKER)
        continue;
      if (!n->ready)
        far_ready(w->far, n);
      note_entered(w, n);
      if (n->ncalls)
        answer(w, n);
    }
    far_notice(w->far);
    sim_step(w->sim);
    w->sim->now_ms += 50;
  }
  w->far->slow_hello = 0;
  for (int i = 0; i < 10; i++)
    far_advance(w->far, 3000);
}

/* What the schedules have come across, so that one sees that they do. */
static mf_pool_info seen;

static void count(struct world *w) {
  mf_pool_info s = {.size = sizeof s};
  CHECK(mf_pool_stats(w->pool, &s) == 0);
  seen.calls += s.calls;
  seen.done += s.done;
  seen.timeouts += s.timeouts;
  seen.cancelled += s.cancelled;
  seen.retried += s.retried;
  seen.refused += s.refused;
  seen.late += s.late;
  seen.started += s.started;
  seen.deaths += s.deaths;
  seen.recycled += s.recycled;
  seen.retired += s.retired;
  seen.killed += s.killed;
  seen.reloads += s.reloads;
  seen.promotions += s.promotions;
  seen.template_starts += s.template_starts;
  seen.workers += s.state == MF_POOL_FAILED;
}

static void tell_seen(void) {
  static const struct {
    const char *name;
    const uint64_t *n;
  } rows[] = {{"calls", &seen.calls},
              {"done", &seen.done},
              {"timeouts", &seen.timeouts},
              {"cancelled", &seen.cancelled},
              {"retried", &seen.retried},
              {"refused", &seen.refused},
              {"late", &seen.late},
              {"started", &seen.started},
              {"deaths", &seen.deaths},
              {"recycled", &seen.recycled},
              {"retired", &seen.retired},
              {"killed", &seen.killed},
              {"reloads", &seen.reloads},
              {"promotions", &seen.promotions},
              {"template starts", &seen.template_starts}};
  for (size_t i = 0; i < COUNT(rows); i++)
    printf("# %s: %llu\n", rows[i].name, (unsigned long long)*rows[i].n);
  printf("# failed pools: %u\n", seen.workers);
  printf("# most templates of a pool: %u\n", seen_templates);
}

static void play(unsigned seed) {
  struct world *w = calloc(1, sizeof *w);
  now = w;
  w->seed = seed;
  w->rng = seed * 2654435761u + 1;
  set_up(w);
  play_steps(w);
  count(w);
  finish(w);
  CHECK(w->gone);
  CHECK(w->reloads == w->reloaded);
  for (int i = 0; i < w->ncalls; i++)
    CHECK(w->call[i].told);
  CHECK(w->context->nopen == 0 && w->context->nbusy == 0 && !w->sim->started);
  CHECK(list_empty(&registry_of(w->context)->processes));
  default_close(w->context);
  far_free(w->far);
  CHECK(sim_free(w->sim) == 0);
  free(w);
}

static unsigned schedules = 2000, first_seed = 1;

static void test_random_schedules(void **state) {
  for (unsigned i = 0; i < schedules; i++)
    play(first_seed + i);
  tell_seen();
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_schedules)};
  if (argc > 1)
    schedules = (unsigned)atoi(argv[1]);
  if (argc > 2)
    first_seed = (unsigned)atoi(argv[2]);
  printf("# %u schedules from seed %u\n", schedules, first_seed);
  return cmocka_run_group_tests_name("pool in random schedules", tests, NULL, NULL);
}
