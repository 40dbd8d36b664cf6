/* The nodes of a far pool, and the messages between them and the caller. What comes is
 * from anybody who may publish to these subjects: an answer counts where it is to a call
 * that is under way, by a number that was never used before. Runs in the parent. */
#include "nats/caller_private.h"

#include "nats/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t MS = 1000000;

static uint64_t now_ms(void) {
  return uv_hrtime() / MS;
}

/* ---- sending ---- */

void far_leave(struct far_call *c) {
  mf_far *far = c->far;
  if (c->state == CALL_LEFT)
    far->nleft--;
  else
    far->nsent--;
  list_remove(&c->link);
  room_back(c->node->room, c->places);
  idmap_remove(&far->sent, c->sent_id);
  c->sent_id = c->batch = 0;
  c->node = NULL;
}

/* Those of the batch that were not entered, as whoever calls this knows. */
static void requeue_batch(struct far_node *node, uint64_t batch) {
  for (struct list *it = node->calls.prev; it != &node->calls;) { /* keeps their order */
    struct far_call *c = list_entry(it, struct far_call, link);
    it = it->prev;
    if (c->batch == batch)
      far_requeue(c);
  }
}

static void flush_node(mf_far *far, struct far_node *node) {
  char subject[SUBJECT_MAX + 32];
  uint64_t batch = node->batch;
  if (batch == 0)
    return;
  snprintf(subject, sizeof subject, "%s.node.%s", far->subject, node->room->beat.node);
  snprintf(far->reply, sizeof far->reply, "%.*s.s.%llx", (int)sizeof far->reply - 20,
           far->inbox, (unsigned long long)batch);
  int rc = engine_publish(far->engine, subject, far->reply, NULL, 0, buf_peek(&node->out),
                          buf_size(&node->out));
  buf_consume(&node->out, buf_size(&node->out));
  node->batch = 0;
  if (rc == 0)
    return;
  room_absent(node->room); /* until it is heard again */
  requeue_batch(node, batch);
}

static size_t batch_max(const mf_far *far) {
  size_t most = engine_max_payload(far->engine);
  return most < BATCH_BYTES ? most : BATCH_BYTES;
}

static int begin_batch(mf_far *far, struct far_node *node, size_t more) {
  if (node->batch && buf_size(&node->out) + more > batch_max(far))
    flush_node(far, node);
  if (node->batch)
    return 0;
  int rc = envelope_begin_calls(&node->out);
  if (rc == 0)
    node->batch = ++far->batches;
  return rc;
}

static uint32_t time_left(const struct far_call *c) {
  uint64_t now = now_ms();
  if (!minheap_holds(&c->deadline))
    return 0;
  return c->deadline.key > now ? (uint32_t)(c->deadline.key - now) : 1;
}

void far_send(struct far_call *c, struct room_node *n) {
  mf_far *far = c->far;
  struct far_node *node = n->user;
  c->node = node;
  c->state = CALL_SENT;
  c->looked_ms = now_ms();
  list_push(&node->calls, &c->link);
  far->nsent++;
  c->places = c->chunk ? room_chunk_places(n) : 1;
  room_sent(n, c->places);
  int rc = idmap_add(&far->sent, c, &c->sent_id);
  if (rc == 0)
    rc = begin_batch(far, node, envelope_call_size(c->length));
  if (rc == 0 && c->chunk)
    rc = far_chunk_begin(c->chunk);
  if (rc == 0)
    rc = c->chunk ? envelope_put_chunk(&node->out, c->sent_id, time_left(c), c->bytes,
                                       c->length)
                  : envelope_put_call(&node->out, c->sent_id, time_left(c), c->idempotent,
                                      c->bytes, c->length);
  c->batch = node->batch;
  if (rc < 0)
    far_fail(c, MF_ENOMEM, MF_STARTED_NO, nats_error_text(MF_ENOMEM));
}

/* What is lost is no harm: the answer is dropped here. */
void far_cancel_sent(struct far_call *c) {
  struct far_node *node = c->node;
  if (begin_batch(c->far, node, envelope_call_size(0)) == 0)
    envelope_put_cancel(&node->out, c->sent_id);
}

/* Of the engine, before it writes. */
static void on_flush(void *data) {
  mf_far *far = data;
  far_cancel_waiting(far);
  far_dispatch(far);
  list_each(it, &far->room.nodes)
      flush_node(far, list_entry(it, struct room_node, link)->user);
  far_check_drained(far);
}

/* ---- nodes that come and go ---- */

static void node_free(mf_far *far, struct far_node *node) {
  buf_deinit(&node->out);
  room_remove(&far->room, node->room);
  free(node);
}

static void node_lost(mf_far *far, struct far_node *node, int code, const char *text) {
  struct list calls;
  list_move(&calls, &node->calls);
  while (!list_empty(&calls)) { /* each leaves by itself */
    struct far_call *c = list_entry(calls.next, struct far_call, link);
    far_lose(c, code, text);
  }
  node_free(far, node);
}

static int node_new(struct room_node *n) {
  struct far_node *node = calloc(1, sizeof *node);
  if (!node)
    return -ENOMEM;
  list_init(&node->calls);
  buf_init(&node->out, SIZE_MAX);
  node->room = n;
  n->user = node;
  return 0;
}

/* It gets no calls. Those that wait are told when no other comes. */
static void hear_other(mf_far *far, int version, const struct node_beat *node) {
  if (version < 0)
    return;
  far->other.version = version;
  far->other.heard_ms = now_ms();
  far->other.node = *node;
  far_watch(far);
}

static void on_beat(const struct engine_message *m, void *data) {
  mf_far *far = data;
  struct node_beat beat;
  int is_new;
  if (!beat_read(&beat, m->data, m->length)) {
    far->info.bad++;
    hear_other(far, envelope_other_version(m->data, m->length, 'b', &beat), &beat);
    return;
  }
  struct room_node *n = room_beat(&far->room, &beat, now_ms(), &is_new);
  if (!n)
    return;
  if (is_new && node_new(n) < 0) {
    room_remove(&far->room, n);
    return;
  }
  far_watch(far);
  if (!list_empty(&far->waiting))
    engine_touch(far->engine);
}

/* A node whose connection was interrupted for less than silent_ms lives on, but what was
 * under way to it, or from it, is lost: it is asked about calls that take long. Its word
 * comes behind an answer that it had sent before. */
static void check_calls(mf_far *far, struct far_node *node, uint64_t now) {
  list_each(it, &node->calls) {
    struct far_call *c = list_entry(it, struct far_call, link);
    if (now - c->looked_ms < far->silent_ms)
      continue;
    if (node->batch && buf_size(&node->out) + envelope_call_size(0) > batch_max(far))
      return; /* next time: a message that can't be sent takes calls out of the list */
    c->looked_ms = now;
    if (begin_batch(far, node, envelope_call_size(0)) == 0)
      envelope_put_check(&node->out, c->sent_id);
    engine_touch(far->engine);
  }
}

static void lose_call(mf_far *far, struct far_call *c) {
  const struct node_beat *b = &c->node->room->beat;
  char text[200];
  snprintf(
      text, sizeof text,
      "the call or its answer was lost: the connection of the node %s was interrupted",
      b->name[0] ? b->name : b->node);
  far_lose(c, MF_ECLONE_DIED, text);
  engine_touch(far->engine);
}

void far_tick(mf_far *far) {
  struct room_node *n;
  char text[200];
  room_tick(&far->room);
  while ((n = room_gone(&far->room))) {
    if (n->out > 0 || !n->beat.draining)
      far->info.lost++;
    snprintf(text, sizeof text, "the node %s gave no sign of life for %u ms",
             n->beat.name[0] ? n->beat.name : n->beat.node, far->silent_ms);
    node_lost(far, n->user, MF_ECLONE_DIED, text);
    engine_touch(far->engine);
  }
  uint64_t now = now_ms();
  list_each(it, &far->room.nodes)
      check_calls(far, list_entry(it, struct room_node, link)->user, now);
}

void far_drop_nodes(mf_far *far, const char *reason) {
  char text[400];
  snprintf(text, sizeof text, "the engine was lost while the call was under way: %s",
           reason);
  while (!list_empty(&far->room.nodes)) {
    struct room_node *n = list_entry(far->room.nodes.next, struct room_node, link);
    struct far_node *node = n->user;
    if (node->batch) { /* never published */
      uint64_t batch = node->batch;
      node->batch = 0;
      buf_consume(&node->out, buf_size(&node->out));
      requeue_batch(node, batch);
    }
    node_lost(far, node, MF_EENGINE, text);
  }
}

void far_forget_nodes(mf_far *far) {
  while (!list_empty(&far->room.nodes)) {
    struct room_node *n = list_entry(far->room.nodes.next, struct room_node, link);
    struct far_node *node = n->user;
    list_each_safe(it, tmp, &node->calls)
        far_call_free(list_entry(it, struct far_call, link));
    node_free(far, node);
  }
}

/* ---- answers ---- */

static char *copy(const char *s, size_t n) {
  char *to = s ? malloc(n + 1) : NULL;
  if (to) {
    memcpy(to, s, n);
    to[n] = '\0';
  }
  return to;
}

static void finish_with_error(struct far_call *c, const struct envelope_record *r) {
  char *message = copy(r->message, r->message_length);
  char *traceback = copy(r->traceback, r->traceback_length);
  int is_code = r->exit == ENVELOPE_EXIT_CODE;
  mf_exit x = {.known = 1,
               .code = is_code ? r->status : 0,
               .signal = is_code ? 0 : r->status,
               .core = r->exit == ENVELOPE_EXIT_CORE};
  mf_error e = {.code = r->code,
                .message = message ? message : nats_error_text(r->code),
                .traceback = traceback,
                .started = r->started ? MF_STARTED_UNKNOWN : MF_STARTED_NO,
                .exit = r->exit != ENVELOPE_NO_EXIT ? &x : NULL,
                .value = r->value,
                .value_length = r->value_length};
  far_finish(c, &e, NULL);
  free(message);
  free(traceback);
}

static void end_chunk(mf_far *far, struct far_call *c, const struct envelope_record *r) {
  mf_message m;
  int rc = far_chunk_end(c->chunk, r);
  if (rc == -EPROTO) {
    far_fail(c, MF_EPROTOCOL, MF_STARTED_UNKNOWN, "the node's answer is malformed");
  } else if (r->code < 0) {
    finish_with_error(c, r);
  } else if (rc == -EPIPE) {
    lose_call(far, c);
  } else {
    far_chunk_reply(c->chunk, r, &m);
    far_finish(c, NULL, &m);
  }
}

static void on_chunk_record(mf_far *far, struct far_call *c,
                            const struct envelope_record *r) {
  int rc = 0;
  if (c->state == CALL_LEFT) { /* its chunk is over here */
    if (r->kind == ENVELOPE_CHUNKED)
      far_finish(c, NULL, NULL);
  } else if (r->kind == ENVELOPE_ITEMS && c->chunk &&
             (rc = far_chunk_items(far, c->chunk, r)) == -EPIPE) {
    lose_call(far, c);
  } else if (!c->chunk || rc < 0) {
    far_fail(c, MF_EPROTOCOL, MF_STARTED_UNKNOWN, "the node's answer is malformed");
  } else if (r->kind == ENVELOPE_CHUNKED) {
    end_chunk(far, c, r);
  }
}

static void on_record(mf_far *far, const struct envelope_record *r) {
  struct far_call *c = idmap_get(&far->sent, r->id);
  if (!c) {
    far->info.late++;
    return;
  }
  far->info.late += c->state == CALL_LEFT && r->kind != ENVELOPE_ITEMS;
  if (r->kind == ENVELOPE_GONE) {
    lose_call(far, c);
  } else if (r->kind == ENVELOPE_BUSY) {
    struct room_node *n = c->node->room;
    far_requeue(c);
    room_full(n);
    engine_touch(far->engine);
  } else if (r->kind == ENVELOPE_ERROR) {
    finish_with_error(c, r);
  } else if (r->kind == ENVELOPE_ITEMS || r->kind == ENVELOPE_CHUNKED) {
    on_chunk_record(far, c, r);
  } else {
    mf_message m = {(void *)r->data, r->length, NULL, 0};
    far_finish(c, NULL, &m);
  }
}

/* A node says so of calls that it can't read: nobody knows what it made of others. */
static void look_at_version(mf_far *far, const struct engine_message *m) {
  struct node_beat who;
  char text[VERSION_TEXT];
  int version = envelope_other_version(m->data, m->length, 'a', &who);
  struct room_node *n = version < 0 ? NULL : room_find(&far->room, who.node);
  if (!n)
    return;
  envelope_describe_version(version, &n->beat, text);
  node_lost(far, n->user, MF_EPROTOCOL, text);
}

static void on_answers(const struct engine_message *m, void *data) {
  mf_far *far = data;
  struct reader r;
  struct envelope_record record;
  char id[NODE_ID + 1];
  int rc = -1;
  if (envelope_open_answers(&r, m->data, m->length, id)) {
    struct room_node *n = room_find(&far->room, id);
    if (n)
      room_alive(n, now_ms());
    while ((rc = envelope_next(&r, 1, &record)) > 0)
      on_record(far, &record);
  }
  far->info.bad += rc < 0;
  if (rc < 0)
    look_at_version(far, m);
  if (!list_empty(&far->waiting))
    engine_touch(far->engine);
}

/* The server's word that nobody has the subject of a batch. */
static void on_status(const struct engine_message *m, void *data) {
  mf_far *far = data;
  const char *token = strrchr(m->subject, '.');
  uint64_t batch = token ? strtoull(token + 1, NULL, 16) : 0;
  if (!m->no_responders || batch == 0)
    return;
  list_each(it, &far->room.nodes) {
    struct room_node *n = list_entry(it, struct room_node, link);
    struct far_node *node = n->user;
    unsigned before = n->out;
    requeue_batch(node, batch);
    if (n->out < before)
      room_absent(n);
  }
  engine_touch(far->engine);
}

/* ---- subjects ---- */

void far_hello(mf_far *far) {
  char subject[SUBJECT_MAX + 32];
  snprintf(subject, sizeof subject, "%s.ask", far->subject);
  engine_publish(far->engine, subject, NULL, NULL, 0, "", 0);
}

int far_listen(mf_far *far) {
  char subject[SUBJECT_MAX + 32];
  struct engine_sub *s;
  snprintf(far->inbox, sizeof far->inbox, "_INBOX.%s", engine_id(far->engine));
  engine_on_flush(far->engine, on_flush, far);
  snprintf(subject, sizeof subject, "%s.beat", far->subject);
  int rc = engine_subscribe(far->engine, subject, 0, on_beat, far, &s);
  snprintf(subject, sizeof subject, "%s.a", far->inbox);
  if (rc == 0)
    rc = engine_subscribe(far->engine, subject, 0, on_answers, far, &s);
  snprintf(subject, sizeof subject, "%s.s.*", far->inbox);
  if (rc == 0)
    rc = engine_subscribe(far->engine, subject, ENGINE_STATUS, on_status, far, &s);
  return rc;
}
