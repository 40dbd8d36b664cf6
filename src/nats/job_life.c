/* Life, deadlines and errors of what a caller asks (job_caller.h). */
#include "nats/job_caller_private.h"

#include "nats/error_headers.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- one question ---- */

int ask_new(struct job_caller *c, const char *id, size_t length, unsigned timeout_ms,
            struct job_ask **ret) {
  struct job_ask *a;
  if (length > JOB_ID_MAX)
    return -EINVAL;
  a = calloc(1, sizeof *a);
  if (a == NULL)
    return -ENOMEM;
  if (id != NULL && job_word(id, length, a->word) < 0) {
    free(a);
    return -EINVAL;
  }
  if (id != NULL)
    memcpy(a->id, id, length);
  a->id_length = length;
  a->caller = c;
  uv_update_time(c->loop);
  a->deadline = timeout_ms == MF_NO_TIMEOUT ? UINT64_MAX : uv_now(c->loop) + timeout_ms;
  *ret = a;
  return 0;
}

static void wake(struct job_caller *c);

void ask_start(struct job_ask *a) {
  struct job_caller *c = a->caller;
  a->again_at = uv_now(c->loop);
  list_push(&c->asks, &a->link);
  c->nasks++;
  engine_hold(c->engine);
  wake(c);
}

void ask_rest(struct job_ask *a) {
  struct job_caller *c = a->caller;
  c->nactive -= (size_t)a->is_active;
  a->is_active = 0;
  if (c->is_full)
    wake(c);
  c->is_full = 0;
}

static void forget_calls(struct job_ask *a) {
  job_api_cancel(a->call);
  if (a->request != NULL)
    engine_request_cancel(a->request);
  a->call = NULL;
  a->request = NULL;
}

void ask_end(struct job_ask *a) {
  struct job_caller *c = a->caller;
  list_remove(&a->link);
  c->nasks--;
  ask_rest(a);
  forget_calls(a);
  engine_unsubscribe(a->sub);
  if (a->drop != NULL)
    a->drop(a);
  free(a);
  engine_release(c->engine);
  engine_touch(c->engine); /* its owner may wait for the last */
}

void ask_again(struct job_ask *a, const char *what) {
  ask_rest(a);
  forget_calls(a);
  snprintf(a->reason, sizeof a->reason, "%s", what);
  a->again_at = uv_now(a->caller->loop) + ASK_AGAIN_MS;
  wake(a->caller);
}

/* fail() ends the record. */
void ask_fail(struct job_ask *a, int code, const char *text) {
  mf_error e = {.code = code,
                .message = text,
                .started = a->may_be_sent ? MF_STARTED_UNKNOWN : MF_STARTED_NO};
  a->fail(a, &e);
}

void ask_refused(struct job_ask *a, const struct job_answer *answer) {
  char text[440];
  if (answer->nobody || answer->refused == JOB_API_NO_STREAM) {
    a->caller->stream[0] = '\0'; /* it is gone, or was never there */
    a->caller->nleases = 0;
    ask_again(a, answer->text);
  } else if (answer->code == MF_EENGINE && answer->refused != 0) {
    snprintf(text, sizeof text, "the NATS server refused: %s", answer->text);
    ask_fail(a, MF_EENGINE, text);
  } else if (answer->code == MF_ELIMIT) {
    snprintf(text, sizeof text, "longer than what the NATS server takes: %zu bytes",
             engine_max_payload(a->caller->engine));
    ask_fail(a, MF_ELIMIT, text);
  } else {
    ask_again(a, answer->text);
  }
}

void ask_subject(const struct job_ask *a, const char *what, char room[JOB_NAME_SIZE]) {
  snprintf(room, JOB_NAME_SIZE, "%s.%s.%s", a->caller->subject, what, a->word);
}

/* ---- what many wait for: the stream, and consumers ---- */

/* One such request of a caller is under way at a time; who needs one waits for its end,
 * and does its step again. */

static void release(struct job_caller *c, uint64_t after_ms, const char *reason) {
  c->call = NULL;
  list_each(it, &c->asks) {
    struct job_ask *a = list_entry(it, struct job_ask, link);
    if (!a->waits)
      continue;
    a->waits = 0;
    a->again_at = uv_now(c->loop) + after_ms;
    snprintf(a->reason, sizeof a->reason, "%s", reason);
  }
  wake(c);
}

static void ask_wait(struct job_ask *a) {
  ask_rest(a);
  a->waits = 1;
  a->again_at = 0;
}

static void on_found(const struct job_answer *answer, void *data) {
  struct job_caller *c = data;
  char text[JOB_SUBJECT_MAX + 100];
  c->results_serve = 0;
  if (answer->code != 0) {
    release(c, ASK_AGAIN_MS, answer->text);
  } else if (job_stream_found(answer->body, c->stream) < 0) {
    c->stream[0] = '\0';
    snprintf(text, sizeof text,
             "no stream stores jobs of %s: start a node with jobs (--jobs)", c->subject);
    release(c, ASK_AGAIN_MS, text);
  } else {
    release(c, 0, "");
  }
}

static int knows_lease(const struct job_caller *c, unsigned lease_ms) {
  for (unsigned i = 0; i < c->nleases; i++)
    if (c->leases[i] == lease_ms)
      return 1;
  return 0;
}

/* Nodes hear of a consumer; those that don't look for consumers now and then. */
static void tell_lease(struct job_caller *c, unsigned lease_ms) {
  char subject[JOB_NAME_SIZE], body[16];
  snprintf(subject, sizeof subject, "%s.lease", c->subject);
  snprintf(body, sizeof body, "%u", lease_ms);
  engine_publish(c->engine, subject, NULL, NULL, 0, body, strlen(body));
}

static void on_lease(const struct job_answer *answer, void *data) {
  struct job_caller *c = data;
  if (answer->nobody || answer->refused == JOB_API_NO_STREAM)
    c->stream[0] = '\0';
  if (answer->code != 0 && answer->refused != JOB_API_CONSUMER_DIFFERS &&
      answer->refused != JOB_API_CONSUMER_EXISTS) {
    release(c, ASK_AGAIN_MS, answer->text);
    return;
  }
  tell_lease(c, c->lease_asked);
  if (c->nleases == LEASES_KNOWN_MAX)
    c->nleases = 0;
  c->leases[c->nleases++] = c->lease_asked;
  release(c, 0, "");
}

int ask_has_lease(struct job_ask *a, unsigned lease_ms) {
  struct job_caller *c = a->caller;
  struct job_stream_names names = {c->subject, c->stream};
  if (knows_lease(c, lease_ms))
    return 1;
  ask_wait(a);
  if (c->call == NULL) {
    c->lease_asked = lease_ms;
    if (job_lease_make(c->engine, &names, lease_ms, on_lease, c, &c->call) < 0)
      ask_again(a, "not enough memory");
  }
  return 0;
}

static void find_or_step(struct job_ask *a) {
  struct job_caller *c = a->caller;
  a->again_at = 0;
  a->waits = 0;
  c->nactive += (size_t)!a->is_active;
  a->is_active = 1;
  if (c->stream[0] != '\0') {
    a->step(a);
    return;
  }
  ask_wait(a);
  if (c->call == NULL &&
      job_stream_find(c->engine, c->subject, on_found, c, &c->call) < 0)
    ask_again(a, "not enough memory");
}

/* ---- time ---- */

static void end_of_time(struct job_ask *a) {
  struct job_caller *c = a->caller;
  char text[JOB_SUBJECT_MAX + 400];
  int code = MF_EENGINE;
  if (a->is_cancelled) {
    snprintf(text, sizeof text, "closed while under way");
    code = MF_ECANCELLED;
  } else if (engine_state(c->engine) != ENGINE_UP) {
    snprintf(text, sizeof text, "the NATS server can't be reached: %s",
             engine_reason(c->engine));
  } else if (a->times_out) {
    snprintf(text, sizeof text, "timed out%s%s", a->reason[0] ? ": " : "", a->reason);
    code = MF_ETIMEOUT;
  } else if (!a->reason[0] && (a->call || a->request)) {
    snprintf(
        text, sizeof text,
        "timed out: the NATS server has not answered (is the disk of its store full?)");
    code = MF_ETIMEOUT;
  } else {
    snprintf(text, sizeof text, "%s", a->reason[0] ? a->reason : "timed out");
    code = a->reason[0] ? MF_EENGINE : MF_ETIMEOUT;
  }
  ask_fail(a, code, text);
}

/* What is due is done. Callbacks may end other records, and begin new ones: those are
 * looked at next time. Gives when something is due again. */
static uint64_t turn(struct job_caller *c, uint64_t now) {
  /* while it closes only asks still hold the engine, and all of them are cancelled */
  int is_up = !c->is_closing && engine_state(c->engine) == ENGINE_UP;
  uint64_t next = UINT64_MAX;
  struct list todo;
  list_move(&todo, &c->asks);
  list_init(&c->asks);
  while (!list_empty(&todo)) {
    struct job_ask *a = list_entry(todo.next, struct job_ask, link);
    list_remove(&a->link);
    list_push(&c->asks, &a->link);
    if (a->deadline < next)
      next = a->deadline;
    if (now >= a->deadline || a->is_cancelled)
      end_of_time(a);
    else if (a->again_at != 0 && now >= a->again_at && is_up) {
      if (c->nactive < ACTIVE_MAX || a->is_active)
        find_or_step(a);
      else
        c->is_full = 1;
    } else if (a->again_at > now && a->again_at < next)
      next = a->again_at;
  }
  return next;
}

static void on_closed(uv_handle_t *h) {
  struct job_caller *c = h->data;
  void (*closed)(void *) = c->closed;
  void *data = c->closed_data;
  free(c);
  if (closed != NULL)
    closed(data);
}

static void on_timer(uv_timer_t *t) {
  struct job_caller *c = t->data;
  uint64_t now = uv_now(c->loop), next;
  if (!c->is_closing && engine_state(c->engine) != ENGINE_UP) {
    c->nleases = 0; /* another server may know other ones */
    c->results_serve = 0;
  }
  next = turn(c, now);
  if (c->is_closing)
    uv_close((uv_handle_t *)&c->timer, on_closed);
  else if (next != UINT64_MAX && !uv_is_active((uv_handle_t *)t))
    uv_timer_start(t, on_timer, next > now ? next - now : 0, 0);
}

static void wake(struct job_caller *c) {
  if (!uv_is_closing((uv_handle_t *)&c->timer))
    uv_timer_start(&c->timer, on_timer, 0, 0);
}

/* ---- dead letters ---- */

static void on_dead(const struct engine_message *m, void *data) {
  struct job_caller *c = data;
  const char *word = engine_header_of(m, "Mf-Id"),
             *tries = engine_header_of(m, "Mf-Tries");
  struct error_read r;
  char id[JOB_ID_MAX + 1];
  int n = word ? job_unword(word, strlen(word), id) : -EINVAL;
  if (n < 0 || error_read_init(&r, m) <= 0)
    return; /* somebody else's message */
  if (c->dead_cb != NULL)
    c->dead_cb(id, (size_t)n, tries ? strtoull(tries, NULL, 10) : 0, &r.error,
               c->dead_data);
  error_read_deinit(&r);
}

int job_caller_on_dead(struct job_caller *c, mf_dead_cb cb, void *data) {
  char subject[JOB_NAME_SIZE];
  c->dead_cb = cb;
  c->dead_data = data;
  if (cb == NULL) {
    engine_unsubscribe(c->dead);
    c->dead = NULL;
  }
  if (cb == NULL || c->dead != NULL)
    return 0;
  snprintf(subject, sizeof subject, "%s.dead", c->subject);
  return engine_subscribe(c->engine, subject, 0, on_dead, c, &c->dead);
}

/* ---- life ---- */

int job_caller_new(uv_loop_t *loop, struct engine *e, const struct job_caller_options *o,
                   struct job_caller **ret) {
  size_t n = strlen(o->subject) + 1;
  struct job_caller *c;
  if (n > JOB_SUBJECT_MAX + 1)
    return -EINVAL;
  c = calloc(1, sizeof *c + n);
  if (c == NULL)
    return -ENOMEM;
  c->subject = memcpy(c + 1, o->subject, n);
  c->loop = loop;
  c->engine = e;
  c->o = *o;
  list_init(&c->asks);
  uv_timer_init(loop, &c->timer);
  c->timer.data = c;
  uv_unref((uv_handle_t *)&c->timer);
  *ret = c;
  return 0;
}

void job_caller_turn(struct job_caller *c) {
  wake(c);
}

size_t job_caller_pending(const struct job_caller *c) {
  return c->nasks;
}

void job_caller_end(struct job_caller *c, int all) {
  list_each(it, &c->asks) {
    struct job_ask *a = list_entry(it, struct job_ask, link);
    a->is_cancelled |= all || a->times_out;
  }
  wake(c);
}

void job_caller_close(struct job_caller *c, void (*closed)(void *data), void *data) {
  c->is_closing = 1;
  c->closed = closed;
  c->closed_data = data;
  engine_unsubscribe(c->dead);
  c->dead = NULL;
  job_api_cancel(c->call);
  c->call = NULL;
  job_caller_end(c, 1);
}
