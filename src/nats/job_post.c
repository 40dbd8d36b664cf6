/* A job is stored (job_caller.h):
 *
 *   the consumer of its lease
 *     -> [an id of the caller's: do results answer? does it wait? has it one?]
 *     -> published, acknowledged
 *
 * The stream refuses a second message of the id: by Nats-Msg-Id for two minutes (less
 * where results are not kept so long), by the last sequence of its subject as long as it
 * waits. A job that was at work in between is known by its result, which is also looked
 * for when an acknowledgement is lost. Runs in the parent. */
#include "nats/job_caller_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void drop(struct job_ask *a) {
  free(a->u.post.body);
}

static void finish(struct job_ask *a, const mf_error *e) {
  mf_posted_cb cb = a->u.post.cb;
  void *data = a->data;
  char id[JOB_ID_MAX + 1];
  size_t length = a->id_length;
  memcpy(id, a->id, sizeof id);
  ask_end(a);
  if (cb)
    cb(e, id, length, data);
}

/* ---- last: publish ---- */

static void on_stored(const struct job_answer *answer, void *data) {
  struct job_ask *a = data;
  a->call = NULL;
  if (answer->code == 0 || answer->refused == JOB_API_WRONG_SEQUENCE) {
    finish(a, NULL);
    return;
  }
  if (answer->nobody || answer->refused != 0 || answer->code == MF_ELIMIT)
    a->may_be_sent = a->u.post.was_lost;
  else
    a->u.post.was_lost = 1;
  ask_refused(a, answer);
}

static void publish(struct job_ask *a) {
  struct job_caller *c = a->caller;
  const struct job_post *o = &a->u.post.options;
  char subject[JOB_NAME_SIZE], what[32], tries[16], at[24];
  struct engine_header headers[4] = {{"Nats-Msg-Id", a->word},
                                     {"Nats-Expected-Last-Subject-Sequence", "0"},
                                     {"Mf-Tries", tries},
                                     {"Mf-At", at}};
  snprintf(what, sizeof what, "%s.%u", o->delay_ms > 0 ? "later" : "job", o->lease_ms);
  snprintf(tries, sizeof tries, "%u", o->tries);
  snprintf(at, sizeof at, "%" PRIu64, a->u.post.at_ms);
  ask_subject(a, what, subject);
  a->may_be_sent = 1;
  if (job_api_request(c->engine, subject, headers, o->delay_ms > 0 ? 4 : 3,
                      a->u.post.body, a->u.post.length, on_stored, a, &a->call) < 0)
    ask_again(a, "not enough memory");
}

/* ---- before it: an id that may be known ----
 * Does it wait or work? has it a result? In this order: it is in the stream until its
 * result is stored. */

static void on_done(const struct job_answer *answer, void *data) {
  struct job_ask *a = data;
  a->call = NULL;
  if (answer->code == 0) {
    finish(a, NULL);
  } else if (answer->refused == JOB_API_NO_MESSAGE) {
    a->u.post.was_looked_up = 1;
    publish(a);
  } else {
    ask_refused(a, answer);
  }
}

static void look_for_result(struct job_ask *a) {
  struct job_caller *c = a->caller;
  char subject[JOB_NAME_SIZE], body[JOB_NAME_SIZE + 40], done[JOB_NAME_SIZE];
  ask_subject(a, "done", done);
  snprintf(subject, sizeof subject, "$JS.API.STREAM.MSG.GET.%s_done", c->stream);
  snprintf(body, sizeof body, "{\"last_by_subj\":\"%s\"}", done);
  if (job_api_ask(c->engine, subject, body, on_done, a, &a->call) < 0)
    ask_again(a, "not enough memory");
}

/* A stream's state with the subjects that have messages and fit: {} or none at all. */
static void on_waits(const struct job_answer *answer, void *data) {
  struct job_ask *a = data;
  struct json subjects;
  a->call = NULL;
  if (answer->code != 0)
    ask_refused(a, answer);
  else if (json_get2(answer->body, "state", "subjects", &subjects) == 0 &&
           subjects.length > 2)
    finish(a, NULL);
  else
    look_for_result(a);
}

static void look_for_job(struct job_ask *a) {
  struct job_caller *c = a->caller;
  char subject[JOB_NAME_SIZE], body[JOB_NAME_SIZE + 40];
  snprintf(subject, sizeof subject, "$JS.API.STREAM.INFO.%s", c->stream);
  snprintf(body, sizeof body, "{\"subjects_filter\":\"%s.*.*.%s\"}", c->subject, a->word);
  if (job_api_ask(c->engine, subject, body, on_waits, a, &a->call) < 0)
    ask_again(a, "not enough memory");
}

/* ---- before that: does the stream of results serve? ----
 * A node may be making it just now. nats-server 2.9.10 ends by a nil pointer when it is
 * asked for a message by STREAM.MSG.GET while it opens the stream's files. It subscribes
 * to direct reads after that, so that whatever comes of one shows that it serves. A read
 * of a stream that does not is not answered at all: the first waits are short. */

enum { READ_MIN_MS = 250 };

static void on_served(int code, const struct engine_message *m, void *data) {
  struct job_ask *a = data;
  char text[JOB_STREAM_MAX + 120];
  a->request = NULL;
  if (code == 0) {
    a->caller->results_serve = 1;
    look_for_job(a);
  } else if (code == MF_ETIMEOUT || (m != NULL && m->no_responders)) {
    snprintf(text, sizeof text,
             "the stream %s_done does not answer: it is not there, or does not allow "
             "direct reads (allow_direct)",
             a->caller->stream);
    ask_again(a, text);
  } else {
    ask_again(a, engine_reason(a->caller->engine));
  }
}

static void try_results(struct job_ask *a) {
  struct job_caller *c = a->caller;
  unsigned *ms = &a->u.post.read_ms;
  char subject[JOB_NAME_SIZE];
  *ms = *ms == 0 ? READ_MIN_MS : *ms < JOB_API_TIMEOUT_MS ? *ms * 2 : *ms;
  snprintf(subject, sizeof subject, "$JS.API.DIRECT.GET.%s_done", c->stream);
  if (engine_request(c->engine, subject, NULL, 0, "{\"seq\":1}", 9, *ms, on_served, a,
                     &a->request) < 0)
    ask_again(a, "not enough memory");
}

/* ---- first: the consumer ---- */

static void go_on(struct job_ask *a) {
  if (!a->u.post.was_lost && (a->u.post.options.id == NULL || a->u.post.was_looked_up))
    publish(a);
  else if (a->caller->results_serve)
    look_for_job(a);
  else
    try_results(a);
}

static void begin(struct job_ask *a) {
  if (ask_has_lease(a, a->u.post.options.lease_ms))
    go_on(a);
}

/* 22 letters and digits of the engine, and a count. */
static void invent_id(struct job_ask *a) {
  a->id_length = (size_t)snprintf(a->id, sizeof a->id, "%s-%x",
                                  engine_id(a->caller->engine), ++a->caller->serial);
  job_word(a->id, a->id_length, a->word);
}

static uint64_t wall_ms(void) {
  uv_timeval64_t t;
  uv_gettimeofday(&t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_usec / 1000;
}

int job_caller_post(struct job_caller *c, const struct job_post *post, const void *body,
                    size_t length, unsigned timeout_ms, mf_posted_cb cb, void *data) {
  struct job_ask *a;
  int r;
  if (post->lease_ms < JOB_LEASE_MIN || post->lease_ms > JOB_LEASE_MAX ||
      post->tries == 0)
    return -EINVAL;
  r = ask_new(c, post->id, post->id ? post->id_length : 0, timeout_ms, &a);
  if (r < 0)
    return r;
  a->u.post.body = malloc(length + 1);
  if (a->u.post.body == NULL) {
    free(a);
    return -ENOMEM;
  }
  if (length > 0)
    memcpy(a->u.post.body, body, length);
  a->u.post.length = length;
  a->u.post.options = *post;
  a->u.post.cb = cb;
  a->u.post.at_ms = wall_ms() + post->delay_ms + (post->delay_ms > 0); /* not before */
  a->data = data;
  a->step = begin;
  a->drop = drop;
  a->fail = finish;
  if (post->id == NULL)
    invent_id(a);
  ask_start(a);
  return 0;
}
