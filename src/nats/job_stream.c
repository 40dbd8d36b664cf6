/* See job_stream.h. */
#include "nats/job_stream.h"

#include <errno.h>
#include <inttypes.h>
#include <moonfork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BODY_SIZE = JOB_NAME_SIZE + 600, WINDOW_S = 120 };
#define NS_PER_MS UINT64_C(1000000)

struct job_setup {
  struct engine *engine;
  struct job_stream_names names; /* copies, behind the record */
  uint64_t keep_s;
  int step;
  struct job_api_call *call;
  job_api_cb *cb;
  void *data;
};

/* ---- what the requests say ---- */

/* Subjects have no character that JSON would escape: mf_node_new and mf_far_new see to
 * that. An id is remembered as long as its result, two minutes at most, since it may be
 * posted again after that. */

static void put_jobs(const struct job_setup *s, char *subject, char *body) {
  const char *name = s->names.stream, *on = s->names.subject;
  snprintf(subject, JOB_NAME_SIZE, "$JS.API.STREAM.CREATE.%s", name);
  snprintf(body, BODY_SIZE,
           "{\"name\":\"%s\",\"subjects\":[\"%s.job.*.*\",\"%s.later.*.*\"],"
           "\"retention\":\"workqueue\",\"storage\":\"file\",\"num_replicas\":1,"
           "\"discard\":\"new\",\"duplicate_window\":%" PRIu64 "}",
           name, on, on,
           (s->keep_s < WINDOW_S ? s->keep_s : WINDOW_S) * 1000 * NS_PER_MS);
}

/* Results can be read without a word with the stream's leader (allow_direct). */
static void put_done(const struct job_setup *s, char *subject, char *body) {
  snprintf(subject, JOB_NAME_SIZE, "$JS.API.STREAM.CREATE.%s_done", s->names.stream);
  snprintf(body, BODY_SIZE,
           "{\"name\":\"%s_done\",\"subjects\":[\"%s.done.*\"],\"retention\":\"limits\","
           "\"storage\":\"file\",\"num_replicas\":1,\"allow_direct\":true,"
           "\"max_age\":%" PRIu64 "}",
           s->names.stream, s->names.subject, s->keep_s * 1000 * NS_PER_MS);
}

static void put_dead(const struct job_setup *s, char *subject, char *body) {
  snprintf(subject, JOB_NAME_SIZE, "$JS.API.STREAM.CREATE.%s_dead", s->names.stream);
  snprintf(body, BODY_SIZE,
           "{\"name\":\"%s_dead\",\"subjects\":[\"%s.dead\"],\"retention\":\"limits\","
           "\"storage\":\"file\",\"num_replicas\":1,\"allow_direct\":true}",
           s->names.stream, s->names.subject);
}

static void put_consumer(const struct job_stream_names *n, const char *consumer,
                         const char *filter, unsigned ack_ms, char *subject, char *body) {
  snprintf(subject, JOB_NAME_SIZE, "$JS.API.CONSUMER.DURABLE.CREATE.%s.%s", n->stream,
           consumer);
  snprintf(
      body, BODY_SIZE,
      "{\"stream_name\":\"%s\",\"config\":{\"durable_name\":\"%s\","
      "\"filter_subject\":\"%s.%s.*\",\"ack_policy\":\"explicit\","
      "\"deliver_policy\":\"all\",\"replay_policy\":\"instant\",\"ack_wait\":%" PRIu64
      ",\"max_deliver\":-1,\"max_ack_pending\":-1,\"max_waiting\":4096}}",
      n->stream, consumer, n->subject, filter, ack_ms * NS_PER_MS);
}

static void put_later(const struct job_setup *s, char *subject, char *body) {
  put_consumer(&s->names, "later", "later.*", JOB_LATER_ACK_MS, subject, body);
}

/* Callers look for the stream of jobs: who finds it finds the others, too. */
static void (*const steps[])(const struct job_setup *, char *,
                             char *) = {put_done, put_dead, put_jobs, put_later};
enum { STEPS = sizeof steps / sizeof steps[0] };

/* ---- one after the other ---- */

static int step(struct job_setup *s);

static void end(struct job_setup *s, const struct job_answer *a) {
  job_api_cb *cb = s->cb;
  void *data = s->data;
  free(s);
  cb(a, data);
}

/* What is there already, made by somebody who wants more replicas or another limit, is as
 * good; whether it takes our subjects shows in the first job. */
static int is_there(const struct job_answer *a) {
  return a->refused == JOB_API_STREAM_DIFFERS || a->refused == JOB_API_CONSUMER_EXISTS ||
         a->refused == JOB_API_CONSUMER_DIFFERS;
}

static void on_step(const struct job_answer *a, void *data) {
  struct job_setup *s = data;
  struct job_answer nomem = {.code = MF_ENOMEM, .text = "not enough memory"};
  struct job_answer good = {.text = ""};
  s->call = NULL;
  if ((a->code != 0 && !is_there(a)) || ++s->step == STEPS)
    end(s, a->code != 0 && is_there(a) ? &good : a);
  else if (step(s) < 0)
    end(s, &nomem);
}

static int step(struct job_setup *s) {
  char subject[JOB_NAME_SIZE], body[BODY_SIZE];
  steps[s->step](s, subject, body);
  return job_api_ask(s->engine, subject, body, on_step, s, &s->call);
}

int job_setup_start(struct engine *e, const struct job_stream_names *names,
                    uint64_t keep_s, job_api_cb *cb, void *data, struct job_setup **ret) {
  size_t n = strlen(names->subject) + 1, m = strlen(names->stream) + 1;
  struct job_setup *s = malloc(sizeof *s + n + m);
  int r;
  if (s == NULL)
    return -ENOMEM;
  char *room = (char *)(s + 1);
  *s = (struct job_setup){
      .engine = e, .names = {room, room + n}, .keep_s = keep_s, .cb = cb, .data = data};
  memcpy(room, names->subject, n);
  memcpy(room + n, names->stream, m);
  r = step(s);
  if (r < 0) {
    free(s);
    return r;
  }
  *ret = s;
  return 0;
}

void job_setup_cancel(struct job_setup *s) {
  if (s == NULL)
    return;
  job_api_cancel(s->call);
  free(s);
}

/* ---- consumers of leases ---- */

int job_lease_make(struct engine *e, const struct job_stream_names *names,
                   unsigned lease_ms, job_api_cb *cb, void *data,
                   struct job_api_call **ret) {
  char subject[JOB_NAME_SIZE], body[BODY_SIZE], name[32], filter[32];
  snprintf(name, sizeof name, "lease-%u", lease_ms);
  snprintf(filter, sizeof filter, "job.%u", lease_ms);
  put_consumer(names, name, filter, lease_ms, subject, body);
  return job_api_ask(e, subject, body, cb, data, ret);
}

int job_lease_list(struct engine *e, const char *stream, job_api_cb *cb, void *data,
                   struct job_api_call **ret) {
  char subject[JOB_NAME_SIZE];
  snprintf(subject, sizeof subject, "$JS.API.CONSUMER.NAMES.%s", stream);
  return job_api_ask(e, subject, "{\"offset\":0}", cb, data, ret);
}

unsigned job_lease_of(const char *consumer) {
  unsigned value = 0;
  if (strncmp(consumer, "lease-", 6) != 0)
    return 0;
  for (const char *c = consumer + 6; *c; c++) {
    if (*c < '0' || *c > '9' || value > JOB_LEASE_MAX)
      return 0;
    value = value * 10 + (unsigned)(*c - '0');
  }
  return value >= JOB_LEASE_MIN && value <= JOB_LEASE_MAX ? value : 0;
}

int job_stream_find(struct engine *e, const char *subject, job_api_cb *cb, void *data,
                    struct job_api_call **ret) {
  char body[BODY_SIZE];
  snprintf(body, sizeof body, "{\"subject\":\"%s.later.1000.x\"}", subject);
  return job_api_ask(e, "$JS.API.STREAM.NAMES", body, cb, data, ret);
}

int job_stream_found(struct json body, char room[JOB_STREAM_MAX + 1]) {
  struct json list, name = {NULL, 0};
  if (json_get(body, "streams", &list) < 0 || json_next(list, &name) < 0 ||
      json_text(name, room, JOB_STREAM_MAX + 1) < 0 || !job_is_stream(room))
    return -ENOENT;
  return 0;
}
