/* Replies (reply.h): from the library's callback to Lua's pop, which unpacks the values;
 * long ones in steps. Runs in the parent. */
#include "bind/reply.h"

#include "base/result.h"
#include "os/fd.h"
#include "os/proc.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A message that may have many values is read in steps, so that it does not hold the
 * loop: */
enum {
  LONG_BYTES = 16 * 1024,       /* is read in steps */
  HUGE_BYTES = 4 * 1024 * 1024, /* nor begun in the turn that took it in */
  TAKE_BYTES = 32 * 1024,       /* is taken where it lies, and not copied */
  STEP_EFFORT = 4096,           /* values between two looks at the clock */
  COUNTED_MIN = 4096,           /* a short one takes its time, too, before what is next */
  TURN_NS = 8 * 1000 * 1000     /* for all that is read in one turn */
};

static const struct completion_ops reply_ops;

/* ---- life ---- */

struct reply *reply_new(struct service *s, enum reply_kind kind) {
  struct reply *r = malloc(sizeof *r);
  if (!r)
    return NULL;
  completion_init(&r->c, s->reactor, &reply_ops);
  r->c.behind = &s->blocked;
  r->kind = kind;
  r->c.trash.block = r;
  r->service = s;
  r->size = r->nfds = 0;
  r->data = r->near;
  r->cap = 0;
  r->fds = NULL;
  r->counted = 0;
  r->decoding = NULL;
  list_init(&r->thread.link);
  r->thread.ref = LUA_NOREF;
  r->thread.block = NULL;
  r->thread.pool = NULL;
  r->take = NULL;
  r->taker = NULL;
  r->is_plain = 0;
  s->holds++;
  return r;
}

/* From now on it is not in the way of others. */
static void reply_uncount(struct reply *r) {
  r->c.reactor->undelivered -= r->counted;
  r->counted = 0;
}

static void reply_clear(struct reply *r) {
  reply_uncount(r);
  for (size_t i = 0; i < r->nfds; i++)
    fd_drop(&r->fds[i]);
  free(r->fds);
  if (r->cap)
    mf_message_give(&r->c.reactor->loop, r->data, r->cap);
  else if (r->data != r->near)
    free(r->data);
  r->data = r->near;
  r->cap = 0;
  r->fds = NULL;
  r->size = r->nfds = 0;
}

static void forget_reply(struct completion *c) {
  struct reply *r = (struct reply *)c;
  struct service *s = r->service;
  reply_clear(r);
  completion_clear(c);
  reactor_discard(c->reactor, &r->thread); /* before the block that it is in */
  reactor_discard(c->reactor, &c->trash);
  service_unhold(s);
}

/* Bytes of a block that is taken for so long a message; where it is larger a copy costs
 * less than the memory that would be held. */
static size_t most_for(size_t length) {
  return length > HUGE_BYTES ? SIZE_MAX : 2 * length + TAKE_BYTES;
}

/* Takes or copies what is valid during a callback only. 0 or MF_ENOMEM. */
static int reply_fill(struct reply *r, const mf_message *m) {
  if (m->nfds > 0) {
    r->fds = malloc(m->nfds * sizeof *r->fds);
    if (!r->fds)
      return MF_ENOMEM;
    memcpy(r->fds, m->fds, m->nfds * sizeof *r->fds);
  }
  int is_ours = !r->service->ops; /* a foreign message is just bytes */
  r->data = is_ours && m->length >= TAKE_BYTES
                ? mf_message_take(m, most_for(m->length), &r->cap)
                : NULL;
  if (!r->data) {
    r->data = m->length > NEAR_BYTES ? malloc(m->length) : r->near;
    if (!r->data) {
      r->data = r->near;
      free(r->fds);
      r->fds = NULL;
      return MF_ENOMEM;
    }
    if (m->length > 0)
      memcpy(r->data, m->data, m->length);
  }
  r->size = m->length;
  r->nfds = m->nfds;
  r->counted = sizeof *r + m->length;
  if (r->counted < COUNTED_MIN)
    r->counted = COUNTED_MIN;
  r->c.reactor->undelivered += r->counted;
  for (size_t i = 0; i < m->nfds; i++)
    m->fds[i] = -1; /* ours now */
  return 0;
}

/* ---- callbacks of the library ---- */

void reply_on_result(const mf_error *error, const mf_message *message, void *data) {
  struct reply *r = data;
  if (error)
    completion_set_error(&r->c, error);
  else
    r->c.code = reply_fill(r, message);
  r->c.started = error ? error->started : MF_STARTED_UNKNOWN;
  r->c.reactor->nforeign_work -= r->service->ops != NULL;
  completion_done(&r->c);
}

void reply_on_event(const mf_message *event, void *data) {
  struct reply *r = reply_new(data, REPLY_EVENT);
  if (!r)
    return; /* no memory: as if nobody had listened */
  r->c.code = reply_fill(r, event);
  completion_done(&r->c);
}

void reply_on_error(const mf_error *error, void *data) {
  struct reply *r = reply_new(data, REPLY_ERROR);
  if (!r)
    return;
  completion_set_error(&r->c, error);
  completion_done(&r->c);
}

static void on_notice(struct service *s, enum reply_kind kind) {
  struct reply *r = reply_new(s, kind);
  if (r)
    completion_done(&r->c);
}

void reply_on_close(void *data) {
  on_notice(data, REPLY_CLOSED);
}

void reply_on_drain(void *data) {
  on_notice(data, REPLY_DRAIN);
}

struct worker_news {
  int event, pid;
  char reason[NEAR_BYTES - 2 * sizeof(int)];
};

void reply_on_worker(int event, int pid, const char *reason, void *data) {
  struct worker_news news = {.event = event, .pid = pid};
  struct reply *r = reply_new(data, REPLY_WORKER);
  if (!r)
    return;
  snprintf(news.reason, sizeof news.reason, "%s", reason);
  memcpy(r->near, &news, sizeof news);
  completion_done(&r->c);
}

/* ---- popping ---- */

unsigned char *reply_take(struct reply *r, size_t *ret_size, int **ret_fds,
                          size_t *ret_nfds) {
  unsigned char *data = r->data;
  if (data == r->near) {
    data = malloc(sizeof r->near);
    if (!data)
      return NULL;
    memcpy(data, r->near, r->size);
  }
  *ret_size = r->size;
  *ret_fds = r->fds;
  *ret_nfds = r->nfds;
  r->data = r->near;
  r->cap = 0; /* the taker frees it */
  r->fds = NULL;
  r->size = r->nfds = 0;
  return data;
}

void reply_push_unreadable(lua_State *L, const struct codec_error *e) {
  const char *code = e->code == -EPROTO   ? "PROTOCOL"
                     : e->code == -ENOMEM ? "NOMEM"
                     : e->code == -E2BIG  ? "LIMIT"
                                          : "EINVAL";
  bind_error_push(L, code, e->text, NULL, MF_STARTED_UNKNOWN, NULL);
}

static void push_target(lua_State *L, const struct reply *r) {
  int own = r->kind == REPLY_RESULT;
  lua_rawgeti(L, LUA_REGISTRYINDEX, own ? r->c.trash.ref : r->service->trash.ref);
}

/* A call was told the reason: nobody else has to be. */
static void mark_told(lua_State *L, const struct service *s) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, s->trash.ref);
  lua_pushboolean(L, 1);
  lua_setfield(L, -2, "told");
  lua_pop(L, 1);
}

/* ---- reading in steps ----
 *
 *   done -> push_reply: it is long -> reading <-> a step in each turn
 *                                        '-> first in done -> popped
 *
 * What follows it from the same service, and what is told of the process of the same rpc,
 * waits in the service's list, so that the order stays. All others go on. */

static int has_steps(const struct reply *r) {
  if (r->c.code || r->kind > REPLY_EVENT || r->decoding || r->take || r->is_plain)
    return 0;
  return r->size > HUGE_BYTES ||
         (r->size > LONG_BYTES && serialiser_has_steps(&r->service->serialiser));
}

/* May raise (memory); then nothing has changed. */
static void begin_reading(lua_State *L, struct reply *r) {
  struct service *s = r->service;
  struct decoding *d = lua_newuserdatauv(L, sizeof *d, 1);
  decoding_begin(L, d, &s->serialiser, r->data, r->size, r->fds, r->nfds);
  lua_setiuservalue(L, -2, 1);
  r->thread.ref = luaL_ref(L, LUA_REGISTRYINDEX);
  r->decoding = d;
  s->reading = r;
  s->blocked = &s->behind;
  if (s->proc) {
    s->proc->holds++;
    s->proc->behind = &s->behind;
  }
  reply_uncount(r);
  list_remove(&r->c.link);
  list_push(&r->c.reactor->reading, &r->c.link);
}

/* It is next in done, before all that waited for it. */
static void end_reading(struct reply *r) {
  struct service *s = r->service;
  struct list *done = &r->c.reactor->done, rest;
  s->reading = NULL;
  s->blocked = NULL;
  if (s->proc) {
    s->proc->behind = NULL;
    proc_unhold(s->proc);
  }
  list_remove(&r->c.link);
  list_move(&rest, done);
  list_push(done, &r->c.link);
  list_append(done, &s->behind);
  list_append(done, &rest);
}

/* Reads until this turn's time is up. 1: all of it. */
static int read_some(lua_State *L, struct reply *r) {
  while (proc_now_ns() < r->c.reactor->read_until) {
    if (decoding_step(L, r->decoding, STEP_EFFORT) == MF_AGAIN)
      continue;
    end_reading(r);
    return 1;
  }
  return 0;
}

void reply_read_on(lua_State *L, struct reactor *r) {
  struct list due;
  r->read_until = proc_now_ns() + TURN_NS;
  list_move(&due, &r->reading);
  while (!list_empty(&due)) {
    struct reply *next = list_entry(due.next, struct reply, c.link);
    if (read_some(L, next))
      continue;
    list_remove(&next->c.link); /* the others first, the next time */
    list_append(&r->reading, &due);
    list_push(&r->reading, &next->c.link);
  }
}

void reply_stop_reading(struct reactor *r) {
  while (!list_empty(&r->reading))
    end_reading(list_entry(r->reading.next, struct reply, c.link));
}

/* Pushes what was read in steps. Gives how many values, or an error's code. */
static int push_read(lua_State *L, struct reply *r, struct codec_error *e) {
  struct decoding *d = r->decoding;
  if (d->e.code == 0 && lua_checkstack(L, d->nvalues + 8)) {
    lua_xmove(d->thread, L, d->nvalues);
    return d->nvalues;
  }
  *e = d->e;
  if (e->code == 0) {
    e->code = -E2BIG;
    snprintf(e->text, sizeof e->text, "too many values for the Lua stack");
  }
  return e->code;
}

static int push_news(lua_State *L, const struct reply *r) {
  static const char *const events[] = {[MF_WORKER_STARTED] = "started",
                                       [MF_WORKER_ENDED] = "ended",
                                       [MF_WORKER_KILLED] = "killed",
                                       [MF_WORKER_RECYCLED] = "recycled"};
  struct worker_news news;
  memcpy(&news, r->near, sizeof news);
  lua_pushstring(L, events[news.event & 3]);
  lua_pushinteger(L, news.pid);
  lua_pushstring(L, news.reason);
  return 3;
}

static int push_plain(lua_State *L, const struct reply *r) {
  lua_pushlstring(L, (const char *)r->data, r->size);
  return 1;
}

/* What raises here (memory) leaves the completion to be popped again. */
static int push_reply(lua_State *L, struct completion *c) {
  static const char *const names[] = {"call",   "event", "trouble",
                                      "closed", "drain", "worker"};
  struct reply *r = (struct reply *)c;
  struct codec_error e;
  if (has_steps(r)) {
    begin_reading(L, r);
    if (r->size > HUGE_BYTES || !read_some(L, r))
      return 0;
  }
  int top = lua_gettop(L), n = 0;
  e.code = 0;
  lua_pushstring(L, names[r->kind]);
  push_target(L, r);
  if (c->code) {
    completion_push_failure(L, c);
    if (r->kind == REPLY_RESULT)
      mark_told(L, r->service);
  } else {
    lua_pushnil(L);
    if (r->take)
      r->take(r, r->taker);
    else if (r->is_plain)
      n = push_plain(L, r);
    else if (r->decoding)
      n = push_read(L, r, &e);
    else if (r->kind == REPLY_WORKER)
      n = push_news(L, r);
    else if (r->kind <= REPLY_EVENT)
      n = serialiser_decode(L, &r->service->serialiser, r->data, r->size, r->fds, r->nfds,
                            &e);
  }
  if (n < 0) {
    lua_settop(L, top + 2);
    reply_push_unreadable(L, &e);
    n = 0;
  }
  list_remove(&c->link);
  forget_reply(c);
  return 3 + n;
}

static const struct completion_ops reply_ops = {push_reply, forget_reply};
