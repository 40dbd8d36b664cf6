/* What is asked about stored jobs (job_caller.h): a result, the end of one that waits,
 * how many there are. Runs in the parent. */
#include "nats/error_headers.h"
#include "nats/job_caller_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void ask(struct job_ask *a, const char *subject, const char *body,
                job_api_cb *cb) {
  if (job_api_ask(a->caller->engine, subject, body, cb, a, &a->call) < 0)
    ask_again(a, "not enough memory");
}

/* ---- a result ----
 * Whoever waits listens to its subject first, then asks the stream, and asks once more
 * now and then, because what was said while the connection was down is not heard, and when
 * a cancel was said: the stream refuses that if a result came first. */

enum { RESULT_AGAIN_MS = 2000, SAID_AGAIN_MS = 20, SAID_MAX = 10, ASKED_NODES_MS = 1000 };

static void result_failed(struct job_ask *a, const mf_error *e) {
  mf_reply_cb cb = a->u.result.cb;
  void *data = a->data;
  ask_end(a);
  cb(e, NULL, data);
}

static void take_result(struct job_ask *a, const struct engine_message *m) {
  mf_message reply = {.data = m->data, .length = m->length};
  mf_reply_cb cb = a->u.result.cb;
  void *data = a->data;
  struct error_read r;
  int has_error = error_read_init(&r, m);
  if (has_error < 0) {
    ask_fail(a, MF_ENOMEM, "not enough memory");
    return;
  }
  ask_end(a);
  cb(has_error ? &r.error : NULL, has_error ? NULL : &reply, data);
  if (has_error)
    error_read_deinit(&r);
}

static void on_said(const struct engine_message *m, void *data) {
  struct job_ask *a = data;
  const char *error = engine_header_of(m, "Mf-Error");
  if (error == NULL || strcmp(error, error_name(MF_ECANCELLED)) != 0) {
    take_result(a, m);
    return;
  }
  a->u.result.said = SAID_MAX; /* times that the stream may not have it yet */
  if (a->request == NULL) {
    a->again_at = uv_now(a->caller->loop);
    job_caller_turn(a->caller);
  }
}

static uint64_t result_again_ms(struct job_ask *a) {
  if (a->u.result.said == 0)
    return RESULT_AGAIN_MS;
  a->u.result.said--;
  return SAID_AGAIN_MS;
}

static void on_got(int code, const struct engine_message *m, void *data) {
  struct job_ask *a = data;
  a->request = NULL;
  if (code == 0 && engine_header_of(m, "Nats-Sequence") != NULL) {
    take_result(a, m);
    return;
  }
  if (code == 0 && a->u.result.once) {
    ask_fail(a, MF_ETIMEOUT, "there is no result yet");
    return;
  }
  if (code != 0 && m != NULL && m->no_responders) {
    snprintf(a->reason, sizeof a->reason,
             "the stream %s_done is not there, or does not allow direct reads "
             "(allow_direct)",
             a->caller->stream);
    a->caller->stream[0] = '\0';
  }
  ask_rest(a);
  a->again_at = uv_now(a->caller->loop) + (code == 0 ? result_again_ms(a) : ASK_AGAIN_MS);
  job_caller_turn(a->caller);
}

static void get_result(struct job_ask *a) {
  struct engine *e = a->caller->engine;
  char subject[JOB_NAME_SIZE], done[JOB_NAME_SIZE], body[JOB_NAME_SIZE + 32];
  ask_subject(a, "done", done);
  if (a->sub == NULL && engine_subscribe(e, done, 0, on_said, a, &a->sub) < 0) {
    ask_again(a, "not enough memory");
    return;
  }
  snprintf(subject, sizeof subject, "$JS.API.DIRECT.GET.%s_done", a->caller->stream);
  snprintf(body, sizeof body, "{\"last_by_subj\":\"%s\"}", done);
  if (engine_request(e, subject, NULL, 0, body, strlen(body), JOB_API_TIMEOUT_MS, on_got,
                     a, &a->request) < 0)
    ask_again(a, "not enough memory");
}

int job_caller_result(struct job_caller *c, const char *id, size_t length,
                      unsigned timeout_ms, mf_reply_cb cb, void *data) {
  struct job_ask *a;
  int once = timeout_ms == 0;
  int r = ask_new(c, id, length, once ? JOB_API_TIMEOUT_MS : timeout_ms, &a);
  if (r < 0)
    return r;
  a->u.result.cb = cb;
  a->u.result.once = once;
  a->data = data;
  a->step = get_result;
  a->fail = result_failed;
  a->times_out = 1;
  a->may_be_sent = 1; /* whether the job has run nobody here knows */
  ask_start(a);
  return 0;
}

/* ---- the end of one that waits ----
 *
 *   is it in the stream? -> has a node got it? -> out of the stream, until there is none
 *     -> has a node got it by now? -> that it was cancelled is its result
 *
 * What a node has stays in the stream, so that another gets it if that node ends. From the
 * moment it is out nobody gets it; what was lost on the way is said again, so that it has
 * a result. */

static void cancel_over(struct job_ask *a, const mf_error *e, int taken) {
  mf_job_cancelled_cb cb = a->u.cancel.cb;
  void *data = a->data;
  ask_end(a);
  cb(e, taken, data);
}

static void cancel_failed(struct job_ask *a, const mf_error *e) {
  cancel_over(a, e, 0);
}

static void on_noted(const struct job_answer *answer, void *data) {
  struct job_ask *a = data;
  a->call = NULL;
  if (answer->code == 0 || answer->refused == JOB_API_WRONG_SEQUENCE)
    cancel_over(a, NULL, answer->code == 0); /* else it has a result by now */
  else if (answer->refused != 0) /* it is taken away: whoever waits must be told */
    ask_again(a, answer->text);
  else
    ask_refused(a, answer);
}

/* Its id is not that of results, of which the stream would call it one more copy. */
static void note_cancelled(struct job_ask *a) {
  mf_error e = {.code = MF_ECANCELLED,
                .message = "cancelled before its time had come",
                .started = MF_STARTED_NO};
  if (a->u.cancel
          .was_due) /* perhaps an earlier try has begun, or a node that does not answer */
    e = (mf_error){.code = MF_ECANCELLED,
                   .message = "cancelled while it waited for a node",
                   .started = MF_STARTED_UNKNOWN};
  char id[JOB_WORD_SIZE + 16], done[JOB_NAME_SIZE];
  struct engine_header headers[ERROR_HEADERS + 2] = {
      {"Nats-Msg-Id", id}, {"Nats-Expected-Last-Subject-Sequence", "0"}};
  struct error_headers said;
  snprintf(id, sizeof id, "%s.cancelled", a->word);
  if (error_headers_init(&said, &e) < 0) {
    ask_again(a, "not enough memory");
    return;
  }
  memcpy(headers + 2, said.list, said.n * sizeof *headers);
  ask_subject(a, "done", done);
  a->u.cancel.was_noted = 1;
  if (job_api_request(a->caller->engine, done, headers, said.n + 2, NULL, 0, on_noted, a,
                      &a->call) < 0)
    ask_again(a, "not enough memory");
  error_headers_deinit(&said);
}

static void find_message(struct job_ask *a);

/* A node that moves it puts it into the stream once more. What may have been noted already
 * is noted again, whoever has it by now: so both say the same. */
static void judge(struct job_ask *a) {
  if (a->u.cancel.is_running && !a->u.cancel.was_noted) {
    cancel_over(a, NULL, 0);
  } else if (!a->u.cancel.was_asked) {
    a->u.cancel.was_asked = 1;
    find_message(a);
  } else if (a->u.cancel.is_moving) {
    a->again_at = uv_now(a->caller->loop) + ASK_AGAIN_MS;
    job_caller_turn(a->caller);
  } else {
    note_cancelled(a);
  }
}

static void on_node(const struct engine_message *m, void *data) {
  struct job_ask *a = data;
  a->u.cancel.answers++;
  a->u.cancel.is_running |= m->length == 1 && m->data[0] == '1';
  a->u.cancel.is_moving |= m->length == 1 && m->data[0] == '2';
  size_t nodes = a->caller->o.nodes(a->caller->o.data);
  if (a->sub == NULL || (!a->u.cancel.is_running && a->u.cancel.answers < nodes + !nodes))
    return;
  engine_unsubscribe(a->sub);
  a->sub = NULL;
  a->again_at = 0;
  judge(a);
}

/* What does not answer in a second is stopped or cut off: it counts as one that has not
 * got the job. */
static void ask_nodes(struct job_ask *a) {
  struct engine *e = a->caller->engine;
  char subject[JOB_NAME_SIZE], inbox[80];
  snprintf(subject, sizeof subject, "%s.has", a->caller->subject);
  snprintf(inbox, sizeof inbox, "_INBOX.%s.has.%u", engine_id(e), ++a->caller->serial);
  a->u.cancel.answers = 0;
  a->u.cancel.is_moving = 0;
  if (engine_subscribe(e, inbox, 0, on_node, a, &a->sub) < 0 ||
      engine_publish(e, subject, inbox, NULL, 0, a->word, strlen(a->word)) < 0) {
    engine_unsubscribe(a->sub);
    a->sub = NULL;
    ask_again(a, "the NATS server can't be reached");
  } else {
    a->again_at = uv_now(a->caller->loop) + ASKED_NODES_MS;
    job_caller_turn(a->caller); /* which sees when that is */
  }
}

static void on_deleted(const struct job_answer *answer, void *data) {
  struct job_ask *a = data;
  a->call = NULL;
  a->u.cancel.is_deleted |= answer->refused == 0; /* refused: somebody took it away */
  if (answer->code != 0 && answer->refused == 0)
    ask_refused(a, answer); /* perhaps it is deleted */
  else
    find_message(a);
}

/* {"message": {"subject": ..., "seq": 7, ...}} */
static void on_message(const struct job_answer *answer, void *data) {
  struct job_ask *a = data;
  struct json v;
  char subject[JOB_NAME_SIZE], body[48];
  int64_t sequence;
  a->call = NULL;
  if (answer->refused == JOB_API_NO_MESSAGE) {
    find_message(a);
  } else if (answer->code != 0) {
    ask_refused(a, answer);
  } else if (json_get2(answer->body, "message", "seq", &v) < 0 ||
             json_integer(v, &sequence) < 0) {
    ask_fail(a, MF_EENGINE, "the NATS server gives a message without its number");
  } else {
    snprintf(subject, sizeof subject, "$JS.API.STREAM.MSG.DELETE.%s", a->caller->stream);
    snprintf(body, sizeof body, "{\"seq\":%" PRId64 ",\"no_erase\":true}", sequence);
    ask(a, subject, body, on_deleted);
  }
}

static void on_subjects(const struct job_answer *answer, void *data) {
  struct job_ask *a = data;
  struct json list, key = {NULL, 0}, value;
  char subject[JOB_NAME_SIZE], name[JOB_NAME_SIZE], body[JOB_NAME_SIZE + 32];
  a->call = NULL;
  if (answer->code != 0) {
    ask_refused(a, answer);
  } else if (json_get2(answer->body, "state", "subjects", &list) < 0 ||
             json_next_member(list, &key, &value) < 0 ||
             json_text(key, name, sizeof name) < 0) {
    if (a->u.cancel.is_deleted)
      ask_nodes(a);
    else
      cancel_over(a, NULL, 0);
  } else if (!a->u.cancel.was_asked) {
    ask_nodes(a);
  } else {
    struct job_subject s;
    a->u.cancel.was_due |=
        job_subject(name + strlen(a->caller->subject) + 1, &s) < 0 || !s.is_later;
    snprintf(subject, sizeof subject, "$JS.API.STREAM.MSG.GET.%s", a->caller->stream);
    snprintf(body, sizeof body, "{\"last_by_subj\":\"%s\"}", name);
    ask(a, subject, body, on_message);
  }
}

/* By its number: after a purge by subject nats-server 2.9 does not deliver other messages
 * of the consumer any more. A node may store a job once more meanwhile, so it is looked
 * for until there is none. */
static void find_message(struct job_ask *a) {
  char subject[JOB_NAME_SIZE], body[JOB_NAME_SIZE + 32];
  snprintf(subject, sizeof subject, "$JS.API.STREAM.INFO.%s", a->caller->stream);
  snprintf(body, sizeof body, "{\"subjects_filter\":\"%s.*.*.%s\"}", a->caller->subject,
           a->word);
  ask(a, subject, body, on_subjects);
}

static void cancel(struct job_ask *a) {
  if (a->sub != NULL) { /* a second has passed */
    engine_unsubscribe(a->sub);
    a->sub = NULL;
    judge(a);
  } else {
    a->may_be_sent = 1;
    a->u.cancel.was_asked = a->u.cancel.is_deleted;
    find_message(a);
  }
}

int job_caller_cancel(struct job_caller *c, const char *id, size_t length,
                      unsigned timeout_ms, mf_job_cancelled_cb cb, void *data) {
  struct job_ask *a;
  int r = ask_new(c, id, length, timeout_ms, &a);
  if (r < 0)
    return r;
  a->u.cancel.cb = cb;
  a->data = data;
  a->step = cancel;
  a->fail = cancel_failed;
  ask_start(a);
  return 0;
}

/* ---- how many there are ---- */

static void count_failed(struct job_ask *a, const mf_error *e) {
  mf_jobs_cb cb = a->u.count.cb;
  void *data = a->data;
  ask_end(a);
  cb(e, NULL, data);
}

static void count_over(struct job_ask *a) {
  mf_jobs_cb cb = a->u.count.cb;
  mf_jobs_info counts = a->u.count.counts;
  void *data = a->data;
  ask_end(a);
  cb(NULL, &counts, data);
}

static uint64_t number(struct json v, const char *key) {
  struct json member;
  int64_t n = 0;
  if (json_get(v, key, &member) == 0)
    json_integer(member, &n);
  return n > 0 ? (uint64_t)n : 0;
}

static uint64_t messages(const struct job_answer *answer) {
  struct json state;
  return json_get(answer->body, "state", &state) == 0 ? number(state, "messages") : 0;
}

static void ask_info(struct job_ask *a, const char *suffix, job_api_cb *cb) {
  char subject[JOB_NAME_SIZE];
  snprintf(subject, sizeof subject, "$JS.API.STREAM.INFO.%s%s", a->caller->stream,
           suffix);
  ask(a, subject, "", cb);
}

static void on_dead_info(const struct job_answer *answer, void *data) {
  struct job_ask *a = data;
  a->call = NULL;
  if (answer->code != 0) {
    ask_refused(a, answer);
    return;
  }
  a->u.count.counts.dead = messages(answer);
  count_over(a);
}

static void on_done_info(const struct job_answer *answer, void *data) {
  struct job_ask *a = data;
  a->call = NULL;
  if (answer->code != 0) {
    ask_refused(a, answer);
    return;
  }
  a->u.count.counts.results = messages(answer);
  ask_info(a, "_dead", on_dead_info);
}

static void add_consumer(mf_jobs_info *counts, struct json consumer) {
  struct json name;
  char text[32];
  if (json_get(consumer, "name", &name) < 0 || json_text(name, text, sizeof text) < 0)
    return;
  if (strcmp(text, "later") == 0) {
    counts->delayed +=
        number(consumer, "num_pending") + number(consumer, "num_ack_pending");
  } else {
    counts->waiting += number(consumer, "num_pending");
    counts->running += number(consumer, "num_ack_pending");
    counts->redelivered += number(consumer, "num_redelivered");
  }
}

static void on_consumers(const struct job_answer *answer, void *data) {
  struct job_ask *a = data;
  mf_jobs_info *counts = &a->u.count.counts;
  struct json list, item = {NULL, 0};
  uint64_t known;
  a->call = NULL;
  if (answer->code != 0) {
    ask_refused(a, answer);
    return;
  }
  if (json_get(answer->body, "consumers", &list) == 0)
    while (json_next(list, &item) == 0)
      add_consumer(counts, item);
  known = counts->waiting + counts->running + counts->delayed;
  counts->leftover = a->u.count.messages > known ? a->u.count.messages - known : 0;
  ask_info(a, "_done", on_done_info);
}

static void on_jobs_info(const struct job_answer *answer, void *data) {
  struct job_ask *a = data;
  char subject[JOB_NAME_SIZE];
  a->call = NULL;
  if (answer->code != 0) {
    ask_refused(a, answer);
    return;
  }
  a->u.count.messages = messages(answer);
  snprintf(subject, sizeof subject, "$JS.API.CONSUMER.LIST.%s", a->caller->stream);
  ask(a, subject, "{\"offset\":0}", on_consumers);
}

static void begin_count(struct job_ask *a) {
  memset(&a->u.count.counts, 0, sizeof a->u.count.counts);
  memcpy(a->u.count.counts.stream, a->caller->stream, sizeof a->caller->stream);
  ask_info(a, "", on_jobs_info);
}

int job_caller_count(struct job_caller *c, unsigned timeout_ms, mf_jobs_cb cb,
                     void *data) {
  struct job_ask *a;
  int r = ask_new(c, NULL, 0, timeout_ms, &a);
  if (r < 0)
    return r;
  a->u.count.cb = cb;
  a->data = data;
  a->step = begin_count;
  a->fail = count_failed;
  ask_start(a);
  return 0;
}
