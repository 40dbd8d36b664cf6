/* Calls of a node: from a message to the pool, and from there to an answer. Values are
 * passed on as they are. Runs in the parent. */
#include "nats/node_private.h"

#include "nats/options.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- callers ---- */

static struct node_caller *caller_of(mf_node *node, const char *id) {
  list_each(it, &node->callers) {
    struct node_caller *caller = list_entry(it, struct node_caller, link);
    if (memcmp(caller->id, id, NODE_ID) == 0)
      return caller;
  }
  struct node_caller *caller = calloc(1, sizeof *caller);
  if (!caller)
    return NULL;
  memcpy(caller->id, id, NODE_ID);
  buf_init(&caller->out, SIZE_MAX);
  list_push(&node->callers, &caller->link);
  return caller;
}

static void caller_free(struct node_caller *caller) {
  list_remove(&caller->link);
  buf_deinit(&caller->out);
  free(caller);
}

/* ---- answers ---- */

static void publish_answers(mf_node *node, struct node_caller *caller) {
  char subject[64];
  if (buf_size(&caller->out) == 0)
    return;
  snprintf(subject, sizeof subject, "_INBOX.%s.a", caller->id);
  if (engine_publish(node->engine, subject, NULL, NULL, 0, buf_peek(&caller->out),
                     buf_size(&caller->out)) < 0)
    node->info.undelivered++;
  buf_consume(&caller->out, buf_size(&caller->out));
}

static void on_flush(void *data) {
  mf_node *node = data;
  list_each_safe(it, tmp, &node->callers) {
    struct node_caller *caller = list_entry(it, struct node_caller, link);
    publish_answers(node, caller);
    if (caller->calls == 0)
      caller_free(caller);
  }
  node_step(node);
}

static size_t payload_max(const mf_node *node) {
  return engine_max_payload(node->engine);
}

int node_make_room(mf_node *node, struct node_caller *caller, size_t more) {
  size_t most = payload_max(node) < ANSWERS_BYTES ? payload_max(node) : ANSWERS_BYTES;
  if (buf_size(&caller->out) + more > most)
    publish_answers(node, caller);
  engine_touch(node->engine);
  return buf_size(&caller->out) > 0
             ? 0
             : envelope_begin_answers(&caller->out, engine_id(node->engine));
}

static enum envelope_exit exit_of(const mf_exit *x) {
  if (!x || !x->known)
    return ENVELOPE_NO_EXIT;
  return x->signal == 0 ? ENVELOPE_EXIT_CODE
         : x->core      ? ENVELOPE_EXIT_CORE
                        : ENVELOPE_EXIT_SIGNAL;
}

static int status_of(const mf_exit *x) {
  return !x || !x->known ? 0 : x->signal ? x->signal : x->code;
}

static struct envelope_record error_record(uint64_t id, const mf_error *e) {
  return (struct envelope_record){.id = id,
                                  .code = e->code,
                                  .started = e->started,
                                  .exit = exit_of(e->exit),
                                  .status = status_of(e->exit),
                                  .message = e->message,
                                  .traceback = e->traceback,
                                  .value = e->value,
                                  .message_length = e->message ? strlen(e->message) : 0,
                                  .traceback_length =
                                      e->traceback ? strlen(e->traceback) : 0,
                                  .value_length = e->value_length};
}

static void answer_error(mf_node *node, struct node_caller *caller, uint64_t id,
                         const mf_error *e) {
  struct envelope_record r = error_record(id, e);
  size_t size = envelope_result_size(0) + 64 + r.message_length + r.traceback_length +
                r.value_length;
  size_t room = payload_max(node) - envelope_result_size(0);
  node->info.errors++;
  if (node_make_room(node, caller, size) < 0 ||
      envelope_put_error(&caller->out, &r, room) < 0)
    node->info.undelivered++;
}

static void answer_failure(mf_node *node, struct node_caller *caller, uint64_t id,
                           int code, const char *text) {
  mf_error e = {.code = code, .message = text, .started = MF_STARTED_UNKNOWN};
  answer_error(node, caller, id, &e);
}

void node_describe_long(const mf_node *node, size_t length, char text[NODE_LONG_TEXT]) {
  snprintf(text, NODE_LONG_TEXT,
           "the result has %zu bytes, and the engine takes messages of %zu bytes "
           "(max_payload of the server): answer in parts, or raise it",
           length, payload_max(node));
}

static void answer_result(mf_node *node, struct node_caller *caller, uint64_t id,
                          const mf_message *m) {
  char text[NODE_LONG_TEXT];
  size_t size = envelope_result_size(m->length);
  if (m->nfds > 0) {
    answer_failure(node, caller, id, MF_EINVAL, NODE_HANDLES_TEXT);
  } else if (size > payload_max(node)) {
    node_describe_long(node, m->length, text);
    answer_failure(node, caller, id, MF_ELIMIT, text);
  } else if (node_make_room(node, caller, size) < 0 ||
             envelope_put_result(&caller->out, id, m->data, m->length) < 0) {
    node->info.undelivered++;
  } else {
    node->info.answers++;
  }
}

static void answer_chunk(mf_node *node, const struct node_call *c, const mf_error *error,
                         const mf_message *reply) {
  struct envelope_record r =
      error ? error_record(c->id, error) : (struct envelope_record){0};
  int rc = error ? node_chunk_fail(node, c->caller, c->id, c->chunk, &r)
                 : node_chunk_answer(node, c->caller, c->id, c->chunk, reply);
  if (rc < 0)
    node->info.undelivered++;
  else if (error)
    node->info.errors++;
  else
    node->info.answers++;
}

static void on_reply(const mf_error *error, const mf_message *reply, void *data) {
  struct node_call *c = data;
  mf_node *node = c->node;
  if (node) {
    list_remove(&c->link);
    c->caller->calls--;
    node->held--;
    if (node->jobs && node_held(node) + 1 >= node->window)
      job_worker_turn(node->jobs);
    if (c->chunk)
      answer_chunk(node, c, error, reply);
    else if (error)
      answer_error(node, c->caller, c->id, error);
    else
      answer_result(node, c->caller, c->id, reply);
    if (node->refused_some && node->held <= node->window / 2)
      node_say(node);
    engine_touch(node->engine);
  }
  node_chunk_free(node, c->chunk, !error);
  free(c);
}

void node_forget_calls(mf_node *node) {
  while (!list_empty(&node->calls)) {
    struct node_call *c = list_entry(node->calls.next, struct node_call, link);
    list_remove(&c->link);
    c->node = NULL;
    c->caller = NULL;
    if (c->chunk)
      node_chunk_stop(c->chunk); /* nobody wants the items that are left */
  }
  while (!list_empty(&node->callers))
    caller_free(list_entry(node->callers.next, struct node_caller, link));
  node->held = 0;
}

/* ---- calls ---- */

/* rc: what take gave. Where another time would be no better the caller is told so; a
 * pool that has nothing to do refuses a call for its length. */
static void refuse(mf_node *node, struct node_caller *caller, uint64_t id, int rc) {
  mf_error e = {.code = rc, .message = nats_error_text(rc), .started = MF_STARTED_NO};
  if (rc == MF_ELIMIT && node->held == 0)
    e.message = "the call is longer than the node's pool takes (option message_max)";
  else if (rc == -ENOBUFS) /* whoever has made the chunk sends its items as calls */
    e = (mf_error){.code = MF_ELIMIT,
                   .message = "the node has no memory or descriptor for a chunk",
                   .started = MF_STARTED_NO};
  else if (rc == MF_ELIMIT || rc == MF_ECLOSED || rc == MF_ENOMEM || rc == -ENOMEM)
    e.message = NULL;
  if (e.message) {
    answer_error(node, caller, id, &e);
    return;
  }
  node->info.refused++;
  node->refused_some = 1;
  if (node_make_room(node, caller, 9) == 0)
    envelope_put_busy(&caller->out, id);
}

/* 0: the pool has it. Else it was not and will not be entered here. */
static int take(mf_node *node, struct node_caller *caller,
                const struct envelope_record *r) {
  mf_message m = {(void *)r->data, r->length, NULL, 0};
  mf_call_options o = MF_CALL_OPTIONS_INIT;
  if (node_held(node) >= node->window)
    return MF_ELIMIT;
  struct node_call *c = calloc(1, sizeof *c);
  if (!c)
    return MF_ENOMEM;
  c->node = node;
  c->caller = caller;
  c->id = r->id;
  o.timeout_ms = r->timeout_ms;
  o.idempotent = r->idempotent;
  list_init(&c->link);
  int rc = 0;
  if (r->kind == ENVELOPE_CHUNK && (rc = node_chunk_new(node, r, &c->chunk)) == 0) {
    m.fds = node_chunk_fd(c->chunk);
    m.nfds = 1;
    o.chunk = 1;
    o.idempotent = 0; /* the record is of one run */
  }
  if (rc == 0)
    rc = node->pool.call(node->pool.pool, &m, &o, on_reply, c, &c->pool_id);
  if (rc < 0) {
    node_chunk_free(node, c->chunk, 1);
    free(c);
    return rc;
  }
  list_push(&node->calls, &c->link);
  node->held++;
  caller->calls++;
  node->info.calls++;
  return 0;
}

static void cancel(mf_node *node, const struct node_caller *caller, uint64_t id) {
  list_each(it, &node->calls) {
    const struct node_call *c = list_entry(it, struct node_call, link);
    if (c->id == id && c->caller == caller) {
      if (c->chunk)
        node_chunk_stop(c->chunk);
      node->pool.cancel(node->pool.pool, c->pool_id);
      return;
    }
  }
}

/* The answer of one that was here was written before. */
static void check(mf_node *node, struct node_caller *caller, uint64_t id) {
  list_each(it, &node->calls) {
    const struct node_call *c = list_entry(it, struct node_call, link);
    if (c->id == id && c->caller == caller)
      return;
  }
  if (node_make_room(node, caller, 9) == 0)
    envelope_put_gone(&caller->out, id);
}

/* Calls of another version: answers without any say which version is spoken here. */
static void refuse_version(mf_node *node, const struct engine_message *m) {
  struct node_beat who;
  char id[NODE_ID + 1];
  struct node_caller *caller;
  if (m->reply && subject_caller(m->reply, id) &&
      envelope_other_version(m->data, m->length, 'c', &who) >= 0 &&
      (caller = caller_of(node, id)))
    node_make_room(node, caller, 0);
}

static void on_calls(const struct engine_message *m, void *data) {
  mf_node *node = data;
  struct reader r;
  struct envelope_record record;
  char id[NODE_ID + 1];
  struct node_caller *caller;
  int rc = -1, taken;
  if (!m->reply || !subject_caller(m->reply, id) ||
      !envelope_open_calls(&r, m->data, m->length) || !(caller = caller_of(node, id))) {
    node->info.bad++;
    refuse_version(node, m);
    return;
  }
  while ((rc = envelope_next(&r, 0, &record)) > 0) {
    if (record.kind == ENVELOPE_CANCEL)
      cancel(node, caller, record.id);
    else if (record.kind == ENVELOPE_CHECK)
      check(node, caller, record.id);
    else if ((taken = take(node, caller, &record)) < 0)
      refuse(node, caller, record.id, taken);
  }
  node->info.bad += rc < 0;
  engine_touch(node->engine);
}

/* Somebody asks who is there. Many may ask at once: they get one beat together, and each
 * one, since who asks right after a beat did not hear it. */
static void on_ask(const struct engine_message *m, void *data) {
  mf_node *node = data;
  (void)m;
  uint64_t since = uv_hrtime() / 1000000 - node->beat_at;
  if (since >= MEANWHILE_MS)
    node_say(node);
  else if (!node->asked && node->phase < NODE_OVER) {
    node->asked = 1;
    node_beat_in(node, (unsigned)(MEANWHILE_MS - since));
  }
}

int node_listen(mf_node *node) {
  char subject[SUBJECT_MAX + 32];
  struct engine_sub *s;
  engine_on_flush(node->engine, on_flush, node);
  snprintf(subject, sizeof subject, "%s.node.%s", node->subject, engine_id(node->engine));
  int rc = engine_subscribe(node->engine, subject, 0, on_calls, node, &node->calls_sub);
  snprintf(subject, sizeof subject, "%s.ask", node->subject);
  return rc < 0 ? rc : engine_subscribe(node->engine, subject, 0, on_ask, node, &s);
}
