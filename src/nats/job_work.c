/* The way of one job through a node. Runs in the parent, on the loop's thread.
 *
 *   delivery -> LOOKING (has it a result?) -> WORKING -> STORING -> acknowledged
 *                    |  it has: acknowledged      |          a result once more: the same
 *                    |                            |-> tries left: NAK, again later
 *                    '-> no tries left -----------'-> DEAD_LETTER, then its result
 *   WORKING -> the pool has not entered it -> MOVING: stored again, acknowledged
 *   delivery of a job that waits -> not yet: NAK; its time has come -> MOVING
 *
 * A first delivery is not looked up, unless the job was stored before this connection was
 * made: a server that crashed may have forgotten that it was worked at. From delivery to
 * acknowledgement the lease is renewed. What the engine does not take is said again,
 * until the job is another node's because the lease is over; that its result is then
 * stored twice the stream prevents. */
#include "nats/error_headers.h"
#include "nats/job_worker_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum work_state {
  WORK_LOOKING,
  WORK_WORKING,
  WORK_STORING,
  WORK_DEAD_LETTER,
  WORK_MOVING
};

enum { TRIES_MAX = 1000000, AGAIN_MS = 250, GIVE_UP_MS = 3000 };

struct job {
  struct list link;
  struct job_worker *worker; /* NULL: the pool is at it for nobody */
  enum work_state state;
  int is_later, is_last; /* is_last: it was cancelled while this node had it */
  unsigned lease_ms;
  struct job_delivery delivery;
  uint64_t tries, tried; /* that it may have; that it has had */
  uint64_t give_up_at;   /* 0, or when a draining node waits no more for the engine */
  uint64_t renewed_at, again_at; /* again_at 0: nothing is to be said again */
  struct job_api_call *call;     /* of what its state has asked */
  char word[JOB_WORD_SIZE];
  char *ack;           /* subject of acknowledgements */
  unsigned char *body; /* what the function is called with */
  size_t length;
  unsigned char *result; /* STORING */
  size_t result_length;
  struct error_headers error; /* DEAD_LETTER */
};

static void job_free(struct job *j) {
  if (j->worker != NULL) {
    j->worker->stats.held -= !j->is_later;
    list_remove(&j->link);
    worker_wake(j->worker);
  }
  error_headers_deinit(&j->error);
  free(j->result);
  free(j);
}

/* An acknowledgement that is lost is said again when the job is delivered again. */
static void say(struct job *j, const char *text) {
  engine_publish(j->worker->engine, j->ack, NULL, NULL, 0, text, strlen(text));
}

static void over(struct job *j) {
  j->worker->result_reason[0] = '\0';
  say(j, "+ACK");
  job_free(j);
}

static void nak(struct job *j, uint64_t delay_ms) {
  char text[64];
  snprintf(text, sizeof text, "-NAK {\"delay\":%" PRIu64 "000000}", delay_ms);
  say(j, text);
  job_free(j);
}

/* a: what the engine said, or NULL. The next job that is over ends the reason. */
static void again(struct job *j, const struct job_answer *a) {
  struct job_worker *w = j->worker;
  if (a && a->refused != 0)
    snprintf(w->result_reason, sizeof w->result_reason,
             "jobs of stream %s: the NATS server refused: %s", w->names.stream, a->text);
  j->call = NULL;
  j->again_at = uv_now(j->worker->loop) + AGAIN_MS;
  worker_wake(j->worker);
}

static void put_subject(const struct job *j, const char *what, char room[JOB_NAME_SIZE]) {
  snprintf(room, JOB_NAME_SIZE, "%s.%s.%s", j->worker->names.subject, what, j->word);
}

/* ---- back into the queue, with the tries that it had ---- */

static void on_moved(const struct job_answer *a, void *data) {
  struct job *j = data;
  j->call = NULL;
  if (a->code == 0 || a->refused == JOB_API_WRONG_SEQUENCE)
    over(j); /* it is there, perhaps since an earlier time */
  else
    again(j, a);
}

static void move(struct job *j) {
  char subject[JOB_NAME_SIZE], id[JOB_WORD_SIZE + 32], what[32];
  char tries[24], tried[24], expected[24];
  const struct engine_header headers[] = {
      {"Nats-Msg-Id", id},
      {"Nats-Expected-Last-Subject-Sequence", expected},
      {"Mf-Tries", tries},
      {"Mf-Tried", tried}};
  j->state = WORK_MOVING;
  j->again_at = 0;
  snprintf(what, sizeof what, "job.%u", j->lease_ms);
  put_subject(j, what, subject);
  snprintf(id, sizeof id, "%s.%" PRIu64, j->word, j->delivery.sequence);
  snprintf(expected, sizeof expected, "%" PRIu64, j->is_later ? 0 : j->delivery.sequence);
  snprintf(tries, sizeof tries, "%" PRIu64, j->tries);
  snprintf(tried, sizeof tried, "%" PRIu64, j->tried);
  if (job_api_request(j->worker->engine, subject, headers, 4, j->body, j->length,
                      on_moved, j, &j->call) < 0)
    again(j, NULL);
}

static void give_back(struct job *j) {
  j->worker->stats.returned++;
  move(j);
}

/* ---- the end of a job that has no try left ---- */

/* The error is its result, so that who waits for that learns of it. */
static void on_buried(const struct job_answer *a, void *data) {
  struct job *j = data;
  j->call = NULL;
  if (a->code == 0 || a->refused == JOB_API_WRONG_SEQUENCE) {
    j->worker->stats.dead++;
    over(j);
  } else {
    again(j, a);
  }
}

static void store_error(struct job *j) {
  struct engine_header headers[ERROR_HEADERS + 2] = {
      {"Nats-Msg-Id", j->word}, {"Nats-Expected-Last-Subject-Sequence", "0"}};
  char subject[JOB_NAME_SIZE];
  memcpy(headers + 2, j->error.list, j->error.n * sizeof *headers);
  put_subject(j, "done", subject);
  if (job_api_request(j->worker->engine, subject, headers, j->error.n + 2, NULL, 0,
                      on_buried, j, &j->call) < 0)
    again(j, NULL);
}

static void on_dead(const struct job_answer *a, void *data) {
  struct job *j = data;
  j->call = NULL;
  if (a->code == 0)
    store_error(j);
  else
    again(j, a);
}

/* Where it was said once the stream knows it: the sequence is in its id. */
static void say_dead(struct job *j) {
  char subject[JOB_NAME_SIZE], id[64], tries[24];
  struct engine_header headers[ERROR_HEADERS + 3] = {
      {"Nats-Msg-Id", id}, {"Mf-Id", j->word}, {"Mf-Tries", tries}};
  j->again_at = 0;
  memcpy(headers + 3, j->error.list, j->error.n * sizeof *headers);
  snprintf(subject, sizeof subject, "%s.dead", j->worker->names.subject);
  snprintf(id, sizeof id, "%" PRIu64, j->delivery.sequence);
  snprintf(tries, sizeof tries, "%" PRIu64, j->tried);
  if (job_api_request(j->worker->engine, subject, headers, j->error.n + 3, j->body,
                      j->length, on_dead, j, &j->call) < 0)
    again(j, NULL);
}

static void write_dead_letter(struct job *j, const mf_error *e) {
  if (error_headers_init(&j->error, e) < 0) {
    nak(j, AGAIN_MS);
    return;
  }
  j->state = WORK_DEAD_LETTER;
  say_dead(j);
}

/* ---- its result ---- */

static void store(struct job *j);

static void on_stored(const struct job_answer *a, void *data) {
  struct job *j = data;
  j->call = NULL;
  if (a->code == 0 || a->refused == JOB_API_WRONG_SEQUENCE)
    over(j);
  else
    again(j, a);
}

static void store(struct job *j) {
  const struct engine_header headers[] = {{"Nats-Msg-Id", j->word},
                                          {"Nats-Expected-Last-Subject-Sequence", "0"}};
  char subject[JOB_NAME_SIZE];
  j->state = WORK_STORING;
  j->again_at = 0;
  put_subject(j, "done", subject);
  if (job_api_request(j->worker->engine, subject, headers, 2, j->result, j->result_length,
                      on_stored, j, &j->call) < 0)
    again(j, NULL);
}

/* Less than the server takes, so that there is room for headers. */
static int fits(const struct job *j, size_t length) {
  size_t most = engine_max_payload(j->worker->engine);
  return most == 0 || length + 1024 <= most;
}

static void take_result(struct job *j, const mf_message *reply) {
  char text[160];
  j->worker->stats.done++;
  worker_resume(j->worker);
  if (!fits(j, reply->length)) {
    mf_error e = {.code = MF_ELIMIT, .message = text, .started = MF_STARTED_UNKNOWN};
    snprintf(
        text, sizeof text,
        "the result has %zu bytes, and the NATS server takes messages of at most %zu "
        "(max_payload)",
        reply->length, engine_max_payload(j->worker->engine));
    write_dead_letter(j, &e);
    return;
  }
  j->result = malloc(reply->length + 1);
  if (j->result == NULL) {
    nak(j, AGAIN_MS);
    return;
  }
  memcpy(j->result, reply->data, reply->length);
  j->result_length = reply->length;
  store(j);
}

/* ---- its try ---- */

/* The pool had no worker for it: that is no try. */
static int was_refused(const mf_error *e) {
  if (e->started != MF_STARTED_NO)
    return 0;
  return e->code == MF_ELIMIT || e->code == MF_ECLOSED || e->code == MF_ECANCELLED ||
         e->code == MF_ETEMPLATE_START || e->code == MF_ETEMPLATE_DIED ||
         e->code == MF_EFORK_FAILED || e->code == MF_ECLONE_DIED;
}

static void on_reply(const mf_error *e, const mf_message *reply, void *data) {
  struct job *j = data;
  if (j->worker == NULL) {
    job_free(j);
  } else if (e == NULL) {
    take_result(j, reply);
  } else if (was_refused(e)) {
    worker_pause(j->worker);
    give_back(j);
  } else {
    j->tried++;
    j->worker->stats.failed++;
    if (j->tried >= j->tries || j->is_last)
      write_dead_letter(j, e);
    else
      nak(j, job_backoff_ms(j->tried));
  }
}

static void work(struct job *j) {
  mf_message q = {.data = j->body, .length = j->length};
  j->state = WORK_WORKING;
  if (j->worker->pool.call(j->worker->pool.pool, &q, NULL, on_reply, j, NULL) < 0) {
    worker_pause(j->worker);
    give_back(j);
  }
}

/* ---- whether it was done before ---- */

static void try_or_end(struct job *j) {
  char text[160];
  if (j->tried < j->tries) {
    work(j);
    return;
  }
  mf_error e = {.code = MF_ECLONE_DIED, .message = text, .started = MF_STARTED_UNKNOWN};
  snprintf(text, sizeof text,
           "its node ended, or did not renew the lease, in the last of %" PRIu64 " tries",
           j->tried);
  write_dead_letter(j, &e);
}

static void look(struct job *j);

static void on_looked(const struct job_answer *a, void *data) {
  struct job *j = data;
  j->call = NULL;
  if (a->code == 0)
    over(j);
  else if (a->refused == JOB_API_NO_MESSAGE)
    try_or_end(j);
  else
    again(j, a);
}

static void look(struct job *j) {
  char subject[JOB_NAME_SIZE], body[JOB_NAME_SIZE + 32], done[JOB_NAME_SIZE];
  j->again_at = 0;
  put_subject(j, "done", done);
  snprintf(subject, sizeof subject, "$JS.API.STREAM.MSG.GET.%s_done",
           j->worker->names.stream);
  snprintf(body, sizeof body, "{\"last_by_subj\":\"%s\"}", done);
  if (job_api_ask(j->worker->engine, subject, body, on_looked, j, &j->call) < 0)
    again(j, NULL);
}

/* ---- a delivery ---- */

static uint64_t number_of(const struct engine_message *m, const char *name,
                          uint64_t otherwise, uint64_t most) {
  const char *text = engine_header_of(m, name);
  uint64_t value = 0;
  if (text == NULL || *text == '\0')
    return otherwise;
  for (; *text >= '0' && *text <= '9' && value <= most; text++)
    value = value * 10 + (uint64_t)(*text - '0');
  return *text != '\0' || value > most ? otherwise : value;
}

static struct job *job_new(const struct engine_message *m, const struct job_subject *s) {
  size_t n = strlen(m->reply) + 1;
  struct job *j = malloc(sizeof *j + n + m->length);
  if (j == NULL)
    return NULL;
  memset(j, 0, sizeof *j);
  j->ack = (char *)(j + 1);
  j->body = (unsigned char *)j->ack + n;
  j->length = m->length;
  memcpy(j->ack, m->reply, n);
  if (m->length > 0)
    memcpy(j->body, m->data, m->length);
  snprintf(j->word, sizeof j->word, "%s", s->word);
  j->is_later = s->is_later;
  j->lease_ms = s->lease_ms;
  return j;
}

void work_begin(struct job_worker *w, const struct engine_message *m) {
  struct job_subject s;
  struct job_delivery d;
  struct job *j;
  if (m->reply == NULL || job_delivery(m->reply, &d) < 0 ||
      job_subject(m->subject + strlen(w->names.subject) + 1, &s) < 0 ||
      strlen(s.word) >= JOB_WORD_SIZE || (j = job_new(m, &s)) == NULL)
    return; /* its lease runs out */
  w->stats.delivered++;
  w->stats.redelivered += d.count > 1 && !s.is_later;
  w->stats.held += !s.is_later;
  j->worker = w;
  j->delivery = d;
  j->renewed_at = uv_now(w->loop);
  j->tries = number_of(m, "Mf-Tries", 5, TRIES_MAX);
  j->tried = number_of(m, "Mf-Tried", 0, TRIES_MAX);
  list_push(&w->jobs, &j->link);
  if (s.is_later) {
    uint64_t at = number_of(m, "Mf-At", 0, UINT64_MAX / 16), now = worker_clock_ms();
    if (at > now)
      nak(j, at - now);
    else
      move(j);
    return;
  }
  int is_moved = engine_header_of(m, "Mf-Tried") != NULL;
  j->tried += d.count - 1;
  if (w->is_draining)
    give_back(j);
  else if (d.count > 1 || is_moved || d.at_ms <= w->up_ms)
    look(j);
  else
    try_or_end(j);
}

/* ---- time ---- */

static void say_again(struct job *j) {
  switch (j->state) {
  case WORK_LOOKING:
    look(j);
    return;
  case WORK_STORING:
    store(j);
    return;
  case WORK_DEAD_LETTER:
    say_dead(j);
    return;
  case WORK_MOVING:
    move(j);
    return;
  case WORK_WORKING:
    return;
  }
}

/* A node that drains waits for functions, but not for an engine that does not take what
 * they gave: whoever gets the job when its lease is over does it again. */
static void give_up(struct job *j, uint64_t now) {
  if (!j->worker->is_draining || j->state == WORK_WORKING)
    return;
  if (j->give_up_at == 0)
    j->give_up_at = now + GIVE_UP_MS;
  if (now < j->give_up_at)
    return;
  job_api_cancel(j->call);
  job_free(j);
}

uint64_t work_tick(struct job_worker *w, uint64_t now) {
  uint64_t next = TICK_MS;
  list_each_safe(it, tmp, &w->jobs) give_up(list_entry(it, struct job, link), now);
  if (engine_state(w->engine) != ENGINE_UP)
    return next;
  list_each_safe(it, tmp, &w->jobs) {
    struct job *j = list_entry(it, struct job, link);
    uint64_t third = j->lease_ms / 3u + 1;
    if (now - j->renewed_at >= third) {
      j->renewed_at = now;
      say(j, "+WPI");
    }
    if (j->renewed_at + third - now < next)
      next = j->renewed_at + third - now;
    if (j->again_at == 0)
      continue;
    if (now >= j->again_at)
      say_again(j);
    else if (j->again_at - now < next)
      next = j->again_at - now;
  }
  return next;
}

void job_worker_dump(const struct job_worker *w, FILE *out) {
  static const char *const states[] = {[WORK_LOOKING] = "looked up",
                                       [WORK_WORKING] = "at work",
                                       [WORK_STORING] = "its result is being stored",
                                       [WORK_DEAD_LETTER] = "given up",
                                       [WORK_MOVING] = "on its way back"};
  uint64_t now = uv_now(w->loop);
  list_each(it, &w->jobs) {
    const struct job *j = list_entry(it, struct job, link);
    fprintf(out, "    job %s: %s, %" PRIu64 " of %" PRIu64 " tries over", j->word,
            states[j->state], j->tried, j->tries);
    fprintf(out, ", lease of %.3f s renewed %.3f s ago\n", (double)j->lease_ms / 1000,
            (double)(now - j->renewed_at) / 1000);
  }
}

char work_cancel(struct job_worker *w, const char *word) {
  char answer = '0';
  list_each(it, &w->jobs) {
    struct job *j = list_entry(it, struct job, link);
    if (strcmp(j->word, word) != 0)
      continue;
    if (j->state != WORK_MOVING) {
      j->is_last = 1;
      return '1';
    }
    answer = '2';
  }
  return answer;
}

void work_abandon(struct job_worker *w) {
  list_each_safe(it, tmp, &w->jobs) {
    struct job *j = list_entry(it, struct job, link);
    job_api_cancel(j->call);
    j->call = NULL;
    list_remove(&j->link);
    j->worker = NULL;
    if (j->state != WORK_WORKING)
      job_free(j);
  }
  w->stats.held = 0;
}
