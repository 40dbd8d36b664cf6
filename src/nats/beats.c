/* Groups of nodes, by their beats (beats.h). Runs in the parent. */
#include "nats/beats.h"

#include "nats/engine.h"
#include "nats/job_caller.h"
#include "nats/options.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct group {
  struct list link;
  struct room room;
  struct job_caller *jobs; /* NULL: nobody has asked */
  char subject[SUBJECT_MAX + 1];
};

struct beats {
  struct engine *engine;
  uv_loop_t *loop;
  uv_timer_t tick; /* while nodes are known */
  struct list groups;
  unsigned ngroups, nnodes, silent_ms;
  unsigned open; /* parts that have not closed yet */
  uint64_t bad;
  int is_closing;
  void (*done)(void *data);
  void *data;
};

struct engine *beats_engine(const struct beats *w) {
  return w->engine;
}

uint64_t beats_bad(const struct beats *w) {
  return w->bad;
}

/* ---- groups ---- */

static struct group *group_find(const struct beats *w, const char *subject) {
  list_each(it, &w->groups) {
    struct group *g = list_entry(it, struct group, link);
    if (strcmp(g->subject, subject) == 0)
      return g;
  }
  return NULL;
}

/* NULL: no memory, or too many. */
static struct group *group_of(struct beats *w, const char *subject) {
  struct group *g = group_find(w, subject);
  if (g || w->ngroups >= BEATS_GROUPS || !(g = calloc(1, sizeof *g)))
    return g;
  room_init(&g->room);
  strcpy(g->subject, subject);
  list_push(&w->groups, &g->link);
  w->ngroups++;
  return g;
}

static void group_free(struct group *g) {
  while (!list_empty(&g->room.nodes))
    room_remove(&g->room, list_entry(g->room.nodes.next, struct room_node, link));
  list_remove(&g->link);
  free(g);
}

static size_t count_nodes(void *data) {
  const struct group *g = data;
  return g->room.n;
}

/* ---- beats ---- */

static void on_tick(uv_timer_t *timer) {
  struct beats *w = timer->data;
  struct room_node *n;
  list_each(it, &w->groups) {
    struct group *g = list_entry(it, struct group, link);
    room_tick(&g->room);
    while ((n = room_gone(&g->room))) {
      room_remove(&g->room, n);
      w->nnodes--;
    }
  }
  if (w->nnodes == 0)
    uv_timer_stop(timer);
}

static void start_tick(struct beats *w) {
  unsigned ms = w->silent_ms / ROOM_TICKS > 0 ? w->silent_ms / ROOM_TICKS : 1;
  if (uv_is_active((uv_handle_t *)&w->tick))
    return;
  uv_update_time(w->loop);
  uv_timer_start(&w->tick, on_tick, ms, ms);
}

/* 1: the subject of those who sent it. */
static int subject_of(const struct engine_message *m, char subject[SUBJECT_MAX + 1]) {
  static const char tail[] = ".beat";
  size_t n = strlen(m->subject), rest = sizeof tail - 1;
  if (n <= rest || n - rest > SUBJECT_MAX || strcmp(m->subject + n - rest, tail) != 0)
    return 0;
  memcpy(subject, m->subject, n - rest);
  subject[n - rest] = '\0';
  return !subject_fault(subject);
}

static void on_beat(const struct engine_message *m, void *data) {
  struct beats *w = data;
  struct node_beat beat;
  char subject[SUBJECT_MAX + 1];
  int is_new = 0;
  struct group *g = subject_of(m, subject) && beat_read(&beat, m->data, m->length)
                        ? group_of(w, subject)
                        : NULL;
  struct room_node *n = NULL;
  if (g && (w->nnodes < BEATS_NODES || room_find(&g->room, beat.node)))
    n = room_beat(&g->room, &beat, uv_hrtime() / 1000000, &is_new);
  if (!n) {
    w->bad++;
    return;
  }
  w->nnodes += (unsigned)is_new;
  start_tick(w);
}

/* Of a subject of one word, of two, ... : a wildcard for any number of words stands at
 * the end only. */
static int listen_to_beats(struct beats *w) {
  char subject[2 * BEATS_WORDS + 8] = "";
  struct engine_sub *s;
  int rc = 0;
  for (size_t i = 0; i < BEATS_WORDS && rc == 0; i++) {
    memcpy(subject + 2 * i, "*.", 2);
    strcpy(subject + 2 * i + 2, "beat");
    rc = engine_subscribe(w->engine, subject, 0, on_beat, w, &s);
  }
  return rc;
}

static void on_state(struct engine *e, void *data) {
  struct beats *w = data;
  (void)e;
  list_each(it, &w->groups) {
    struct group *g = list_entry(it, struct group, link);
    if (g->jobs)
      job_caller_turn(g->jobs);
  }
}

/* ---- what it says ---- */

void beats_each(const struct beats *w, beats_visit *visit, void *data) {
  list_each(it, &w->groups) {
    const struct group *g = list_entry(it, struct group, link);
    visit(g->subject, NULL, data);
    list_each(at, &g->room.nodes)
        visit(g->subject, list_entry(at, struct room_node, link), data);
  }
}

int beats_count(struct beats *w, const char *subject, unsigned timeout_ms, mf_jobs_cb cb,
                void *data) {
  if (w->is_closing)
    return MF_ECLOSED;
  if (strlen(subject) > SUBJECT_MAX || subject_fault(subject))
    return MF_EINVAL;
  struct group *g = group_of(w, subject);
  if (!g)
    return MF_ELIMIT;
  if (!g->jobs) {
    const struct job_caller_options o = {g->subject, count_nodes, g};
    int rc = job_caller_new(w->loop, w->engine, &o, &g->jobs);
    if (rc < 0)
      return rc;
  }
  return job_caller_count(g->jobs, timeout_ms, cb, data);
}

/* ---- life ---- */

static void never_was(void *data) {
  free(data);
}

int beats_new(struct uv_loop_s *loop, const mf_nats_options *given, struct beats **ret) {
  mf_nats_options asked = *given, o;
  struct engine_options eo;
  asked.subject = "any"; /* all are looked at */
  int rc = nats_options_read(&asked, &o, &eo);
  if (rc < 0)
    return rc;
  struct beats *w = calloc(1, sizeof *w);
  if (!w)
    return -ENOMEM;
  w->loop = loop ? loop : uv_default_loop();
  w->silent_ms = o.silent_ms;
  list_init(&w->groups);
  rc = engine_new(w->loop, &eo, on_state, w, &w->engine);
  if (rc < 0) {
    free(w);
    return rc;
  }
  rc = listen_to_beats(w);
  if (rc < 0) {
    engine_abort(w->engine, never_was, w);
    return rc;
  }
  uv_timer_init(w->loop, &w->tick);
  w->tick.data = w;
  uv_unref((uv_handle_t *)&w->tick);
  *ret = w;
  return 0;
}

static void closed(struct beats *w) {
  void (*done)(void *) = w->done;
  void *data = w->data;
  if (--w->open > 0)
    return;
  while (!list_empty(&w->groups))
    group_free(list_entry(w->groups.next, struct group, link));
  free(w);
  done(data);
}

static void on_engine_closed(void *data) {
  closed(data);
}

static void on_tick_closed(uv_handle_t *handle) {
  closed(handle->data);
}

/* Those who ask use the engine up to here. */
static void on_jobs_closed(void *data) {
  struct beats *w = data;
  if (--w->open > 0)
    return;
  w->open = 2;
  uv_close((uv_handle_t *)&w->tick, on_tick_closed);
  engine_release(w->engine);
  engine_abort(w->engine, on_engine_closed, w);
}

void beats_close(struct beats *w, void (*done)(void *data), void *data) {
  w->is_closing = 1;
  w->done = done;
  w->data = data;
  w->open = 1;
  engine_hold(w->engine);
  list_each(it, &w->groups) {
    struct group *g = list_entry(it, struct group, link);
    if (!g->jobs)
      continue;
    w->open++;
    job_caller_close(g->jobs, on_jobs_closed, w);
    g->jobs = NULL;
  }
  on_jobs_closed(w);
}
