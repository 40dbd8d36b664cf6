/* Streams, pulls and time of a node (job_worker.h); job_work.c is the way of one job. */
#include "nats/job_worker.h"

#include "nats/job_worker_private.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- pulls ---- */

static struct lane *lane_of(struct job_worker *w, unsigned lease_ms) {
  for (unsigned i = 0; i < w->nlanes; i++)
    if (w->lanes[i].lease_ms == lease_ms)
      return &w->lanes[i];
  return NULL;
}

static size_t lane_asked(const struct lane *l) {
  size_t n = 0;
  for (int i = 0; i < PULLS_MAX; i++)
    n += l->pulls[i].left;
  return n;
}

/* Of all lanes whose jobs need room, but one for each: a lane without jobs must not take
 * the room of others while its request waits. So some jobs more may come than there is
 * room for, at most one of each lane. */
static size_t asked(const struct job_worker *w) {
  size_t n = 0;
  for (unsigned i = 0; i < w->nlanes; i++) {
    size_t of_lane = w->lanes[i].lease_ms != 0 ? lane_asked(&w->lanes[i]) : 0;
    n += of_lane > 0 ? of_lane - 1 : 0;
  }
  return n;
}

static int has_pulls(const struct job_worker *w) {
  for (unsigned i = 0; i < w->nlanes; i++)
    if (lane_asked(&w->lanes[i]) > 0)
      return 1;
  return 0;
}

static void pull(struct job_worker *w, struct lane *l, size_t n) {
  char subject[JOB_NAME_SIZE], reply[96], body[80], name[24] = "later";
  struct lane_pull *p = NULL;
  for (int i = 0; i < PULLS_MAX && p == NULL; i++)
    if (l->pulls[i].left == 0)
      p = &l->pulls[i];
  if (p == NULL || n == 0)
    return;
  if (l->lease_ms != 0)
    snprintf(name, sizeof name, "lease-%u", l->lease_ms);
  snprintf(subject, sizeof subject, "$JS.API.CONSUMER.MSG.NEXT.%s.%s", w->names.stream,
           name);
  w->serial++;
  snprintf(reply, sizeof reply, "%s.%u", w->inbox, w->serial);
  snprintf(body, sizeof body, "{\"batch\":%zu,\"expires\":%d000000}", n, PULL_MS);
  if (engine_publish(w->engine, subject, reply, NULL, 0, body, strlen(body)) == 0)
    *p = (struct lane_pull){w->serial, (unsigned)n, uv_now(w->loop) + PULL_LOST_MS};
}

/* How many jobs may be here: twice as many as there are workers, so that one waits behind
 * each; nothing while the pool is failed. */
static size_t places(const struct job_worker *w) {
  mf_pool_info info = {.size = sizeof info};
  size_t room = w->o.room(w->o.data);
  if (w->pool.stats(w->pool.pool, &info) < 0 || info.state != MF_POOL_RUNNING)
    return 0;
  size_t most = (size_t)info.max * 2, held = w->stats.held;
  size_t want = most > held ? most - held : 0;
  return want < room ? want : room;
}

static void pull_all(struct job_worker *w) {
  if (!w->is_ready || w->is_draining || uv_now(w->loop) < w->paused_until ||
      engine_state(w->engine) != ENGINE_UP)
    return;
  size_t under_way = asked(w), room = places(w);
  for (unsigned i = 0; i < w->nlanes; i++) {
    struct lane *l = &w->lanes[i];
    if (lane_asked(l) == 0 && (l->lease_ms == 0 || room > 0))
      pull(w, l, l->lease_ms == 0 ? LATER_BATCH : 1);
  }
  /* What is left is for the lane that had a job last. */
  if (w->busy_lane < w->nlanes && w->lanes[w->busy_lane].lease_ms != 0 &&
      room > under_way)
    pull(w, &w->lanes[w->busy_lane], room - under_way);
}

static void drop_lost_pulls(struct job_worker *w, uint64_t now) {
  for (unsigned i = 0; i < w->nlanes; i++)
    for (int k = 0; k < PULLS_MAX; k++)
      if (now >= w->lanes[i].pulls[k].lost_at)
        w->lanes[i].pulls[k].left = 0;
}

/* The server's word that a request is over: its subject ends in the serial. */
static void on_status(struct job_worker *w, const char *subject, const char *status) {
  const char *dot = strrchr(subject, '.');
  unsigned long serial = dot ? strtoul(dot + 1, NULL, 10) : 0;
  if (status[0] == '1')
    return; /* 100: it is alive */
  for (unsigned i = 0; i < w->nlanes; i++)
    for (int k = 0; k < PULLS_MAX; k++)
      if (w->lanes[i].pulls[k].serial == serial)
        w->lanes[i].pulls[k].left = 0;
  if (strcmp(status, "409") == 0) /* perhaps a consumer is gone */
    w->list_at = 0;
}

/* Requests of a lane are satisfied in their order. */
static void count_delivery(struct lane *l) {
  struct lane_pull *first = NULL;
  for (int k = 0; k < PULLS_MAX; k++) {
    struct lane_pull *p = &l->pulls[k];
    if (p->left > 0 && (first == NULL || (int)(p->serial - first->serial) < 0))
      first = p;
  }
  if (first != NULL)
    first->left--;
}

static void on_delivery(const struct engine_message *m, void *data) {
  struct job_worker *w = data;
  const char *status = m->length == 0 ? engine_header_of(m, "Status") : NULL;
  size_t n = strlen(w->names.subject);
  struct job_subject s;
  if (m->reply == NULL && status != NULL) {
    on_status(w, m->subject, status);
  } else if (strncmp(m->subject, w->names.subject, n) == 0 && m->subject[n] == '.' &&
             job_subject(m->subject + n + 1, &s) == 0) {
    struct lane *l = lane_of(w, s.is_later ? 0 : s.lease_ms);
    if (l != NULL) {
      count_delivery(l);
      w->busy_lane = l->lease_ms != 0 ? (unsigned)(l - w->lanes) : w->busy_lane;
    }
    work_begin(w, m);
  }
  worker_wake(w);
}

/* ---- streams and consumers ---- */

static void complain(struct job_worker *w, const struct job_answer *a) {
  snprintf(w->reason, sizeof w->reason, "jobs of stream %s: %s", w->names.stream,
           a->text);
  w->retry_at = uv_now(w->loop) + RETRY_MS;
  worker_wake(w);
}

static void add_lane(struct job_worker *w, unsigned lease_ms) {
  if (lane_of(w, lease_ms) == NULL && w->nlanes < LANES_MAX)
    w->lanes[w->nlanes++] = (struct lane){.lease_ms = lease_ms};
}

static void on_list(const struct job_answer *a, void *data) {
  struct job_worker *w = data;
  struct json list, item = {NULL, 0};
  char name[32];
  w->call = NULL;
  if (a->code != 0) {
    complain(w, a);
    return;
  }
  if (json_get(a->body, "consumers", &list) == 0)
    while (json_next(list, &item) == 0)
      if (json_text(item, name, sizeof name) == 0 && job_lease_of(name) != 0)
        add_lane(w, job_lease_of(name));
  w->is_ready = 1;
  w->reason[0] = '\0';
  w->list_at = uv_now(w->loop) + LIST_MS;
  worker_wake(w);
}

static void on_setup(const struct job_answer *a, void *data) {
  struct job_worker *w = data;
  w->setup = NULL;
  if (a->code != 0) {
    complain(w, a);
    return;
  }
  add_lane(w, 0);
  if (job_lease_list(w->engine, w->names.stream, on_list, w, &w->call) < 0)
    w->retry_at = uv_now(w->loop) + RETRY_MS;
}

/* A caller has made a consumer: the body is its lease. */
static void on_lease(const struct engine_message *m, void *data) {
  struct job_worker *w = data;
  char name[32];
  unsigned lease_ms;
  snprintf(name, sizeof name, "lease-%.*s", m->length < 16 ? (int)m->length : 0,
           (const char *)m->data);
  lease_ms = job_lease_of(name);
  if (lease_ms != 0 && w->is_up) /* also before the list, which may be older */
    add_lane(w, lease_ms);
  worker_wake(w);
}

/* A caller cancels the job whose word is the body. */
static void on_ask(const struct engine_message *m, void *data) {
  struct job_worker *w = data;
  char word[JOB_WORD_SIZE];
  char answer;
  if (m->reply == NULL || m->length >= sizeof word)
    return;
  memcpy(word, m->data, m->length);
  word[m->length] = '\0';
  answer = work_cancel(w, word);
  engine_publish(w->engine, m->reply, NULL, NULL, 0, &answer, 1);
}

static int subscribe(struct job_worker *w) {
  char subject[JOB_NAME_SIZE];
  int r;
  snprintf(subject, sizeof subject, "%s.*", w->inbox);
  r = engine_subscribe(w->engine, subject, 0, on_delivery, w, &w->deliveries);
  if (r == 0) {
    snprintf(subject, sizeof subject, "%s.lease", w->names.subject);
    r = engine_subscribe(w->engine, subject, 0, on_lease, w, &w->leases);
  }
  if (r == 0) {
    snprintf(subject, sizeof subject, "%s.has", w->names.subject);
    r = engine_subscribe(w->engine, subject, 0, on_ask, w, &w->asks);
  }
  return r;
}

/* What was asked of a server that is gone is not answered by the next one. */
static void follow_engine(struct job_worker *w, uint64_t now) {
  int is_up = engine_state(w->engine) == ENGINE_UP;
  if (w->is_up && !is_up) {
    w->is_ready = 0;
    job_setup_cancel(w->setup);
    job_api_cancel(w->call);
    w->setup = NULL;
    w->call = NULL;
    memset(w->lanes, 0, sizeof w->lanes);
    w->nlanes = 0;
    w->retry_at = 0;
  }
  if (is_up && !w->is_up)
    w->up_ms = worker_clock_ms();
  w->is_up = is_up;
  if (!is_up || w->setup != NULL || w->call != NULL || now < w->retry_at)
    return;
  if (!w->is_ready) {
    if (job_setup_start(w->engine, &w->names, w->o.keep_s, on_setup, w, &w->setup) < 0)
      w->retry_at = now + RETRY_MS;
  } else if (now >= w->list_at) {
    if (job_lease_list(w->engine, w->names.stream, on_list, w, &w->call) < 0)
      w->retry_at = now + RETRY_MS;
  }
}

/* ---- time ---- */

uint64_t worker_clock_ms(void) {
  uv_timeval64_t t;
  uv_gettimeofday(&t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_usec / 1000;
}

static void on_timer(uv_timer_t *t) {
  struct job_worker *w = t->data;
  uint64_t now = uv_now(w->loop), next;
  if (w->is_closing)
    return;
  drop_lost_pulls(w, now);
  follow_engine(w, now);
  next = work_tick(w, now);
  pull_all(w);
  if (w->paused_until > now && w->paused_until - now < next)
    next = w->paused_until - now;
  if (w->retry_at > now && w->retry_at - now < next)
    next = w->retry_at - now;
  uv_timer_start(t, on_timer, next, 0);
  if (w->is_draining && w->drained != NULL && list_empty(&w->jobs) && !has_pulls(w)) {
    void (*drained)(void *) = w->drained;
    w->drained = NULL;
    drained(w->drained_data);
  }
}

void worker_wake(struct job_worker *w) {
  if (!w->is_closing)
    uv_timer_start(&w->timer, on_timer, 0, 0);
}

void worker_pause(struct job_worker *w) {
  w->paused_until = uv_now(w->loop) + w->pause_ms;
  w->pause_ms = w->pause_ms * 2 < PAUSE_MAX_MS ? w->pause_ms * 2 : PAUSE_MAX_MS;
}

void worker_resume(struct job_worker *w) {
  w->pause_ms = PAUSE_MIN_MS;
  w->paused_until = 0;
}

/* ---- life ---- */

int job_worker_new(uv_loop_t *loop, struct engine *e, const struct node_pool *pool,
                   const struct job_worker_options *o, struct job_worker **ret) {
  if (!job_is_stream(o->stream) || strlen(o->subject) > JOB_SUBJECT_MAX)
    return -EINVAL;
  size_t n = strlen(o->subject) + 1, m = strlen(o->stream) + 1;
  struct job_worker *w = calloc(1, sizeof *w + n + m);
  if (w == NULL)
    return -ENOMEM;
  char *room = (char *)(w + 1);
  memcpy(room, o->subject, n);
  memcpy(room + n, o->stream, m);
  w->loop = loop;
  w->engine = e;
  w->pool = *pool;
  w->o = *o;
  w->names = (struct job_stream_names){room, room + n};
  w->pause_ms = PAUSE_MIN_MS;
  list_init(&w->jobs);
  snprintf(w->inbox, sizeof w->inbox, "_INBOX.%s.job", engine_id(e));
  if (subscribe(w) < 0) {
    engine_unsubscribe(w->deliveries);
    engine_unsubscribe(w->leases);
    engine_unsubscribe(w->asks);
    free(w);
    return -ENOMEM;
  }
  uv_timer_init(loop, &w->timer);
  w->timer.data = w;
  uv_unref((uv_handle_t *)&w->timer);
  worker_wake(w);
  *ret = w;
  return 0;
}

void job_worker_turn(struct job_worker *w) {
  worker_wake(w);
}

void job_worker_drain(struct job_worker *w, void (*done)(void *data), void *data) {
  w->is_draining = 1;
  w->drained = done;
  w->drained_data = data;
  worker_wake(w);
}

static void on_closed(uv_handle_t *h) {
  struct job_worker *w = h->data;
  void (*closed)(void *) = w->closed;
  void *data = w->closed_data;
  free(w);
  if (closed != NULL)
    closed(data);
}

void job_worker_close(struct job_worker *w, void (*closed)(void *data), void *data) {
  w->is_closing = 1;
  w->closed = closed;
  w->closed_data = data;
  engine_unsubscribe(w->deliveries);
  engine_unsubscribe(w->leases);
  engine_unsubscribe(w->asks);
  job_setup_cancel(w->setup);
  job_api_cancel(w->call);
  work_abandon(w);
  uv_close((uv_handle_t *)&w->timer, on_closed);
}

const char *job_worker_reason(const struct job_worker *w) {
  if (engine_state(w->engine) != ENGINE_UP)
    return engine_reason(w->engine);
  return w->reason[0] ? w->reason : w->result_reason;
}

void job_worker_get_stats(const struct job_worker *w, struct job_worker_stats *s) {
  *s = w->stats;
}

size_t job_worker_held(const struct job_worker *w) {
  return w->stats.held;
}
