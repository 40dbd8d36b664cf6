/* fork.timer and what fork.sleep waits for: one uv_timer_t of the private loop each,
 * counted in nanoseconds so that none is early, and a completion that is part of it, so
 * that it needs no memory to be told. Runs in the parent.
 *
 *   timer() -> waiting -> due: its completion is in the reactor's done -> pop: called
 *                 ^                                                         |
 *                 '------------------- every: the next date ---------------'
 *
 * The struct lives until it has been told for the last time, whether or not Lua still has
 * the object: a timer that was started is outstanding, and outstanding work is not
 * collected.
 *
 * A loop that only watches the reactor's descriptor (select in copas) learns nothing of
 * dates: where there are timers and somebody has asked for the descriptor, a further one
 * (timerfd) is in the set, which is readable at the next date. Without it timeout() has
 * to do. */
#include "bind/timer.h"

#include "bind/completion.h"
#include "os/fd.h"
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static const lua_Number FOREVER = 1e9; /* seconds: nobody waits for these thirty years */
static const uint64_t NEVER = UINT64_MAX, MS = 1000000;

struct timer {
  struct resident resident;
  uv_timer_t uv;
  struct completion told;
  struct timer **object;     /* Lua's, or NULL: collected */
  uint64_t due_ns, every_ns; /* NEVER; every_ns 0: once */
  int is_work;               /* counts as outstanding */
  int is_owned;              /* ends with Lua's object */
};

static struct timer *timer_of(struct completion *c) {
  return list_entry(c, struct timer, told);
}

/* ---- the descriptor ---- */

struct date {
  struct resident resident;
  uv_poll_t poll;
  struct reactor *reactor;
  int fd;
  uint64_t at_ms; /* of uv_now; 0: not set */
};

static void on_date(uv_poll_t *poll, int status, int events) {
  struct date *d = poll->data;
  (void)status, (void)events;
  timer_date_clear(d->fd);
  d->at_ms = 0;
}

static void on_date_closed(uv_handle_t *poll) {
  struct date *d = poll->data;
  d->reactor->nclosing--;
  free(d);
}

static void date_end(struct date *d) {
  d->reactor->date = NULL;
  d->reactor->nclosing++;
  list_remove(&d->resident.link);
  uv_close((uv_handle_t *)&d->poll, on_date_closed);
  fd_close(&d->fd);
}

static void date_release(struct resident *resident) {
  date_end(list_entry(resident, struct date, resident));
}

static void date_abandon(struct resident *resident) {
  fd_close(&list_entry(resident, struct date, resident)->fd);
}

static struct date *date_new(struct reactor *r) {
  struct date *d = calloc(1, sizeof(*d));
  int fd = d ? timer_date_open() : -1;
  if (fd < 0 || uv_poll_init(&r->loop, &d->poll, fd) < 0) {
    fd_close(&fd);
    free(d);
    return NULL;
  }
  d->poll.data = d;
  d->reactor = r;
  d->fd = fd;
  d->resident = (struct resident){.release = date_release, .abandon = date_abandon};
  list_push(&r->residents, &d->resident.link);
  uv_poll_start(&d->poll, UV_READABLE, on_date);
  r->turned = 0;
  return d;
}

/* 1: libuv has to turn once more, to watch what is new, or to let go of what is closed: until
 * then its timeout is 0. */
static int expose(struct reactor *r) {
  int is_new = 0;
  if (!r->exposed)
    return 0;
  if (r->ntimers == 0) {
    if (!r->date || reactor_outstanding(r)) /* the next wait may want it again */
      return 0;
    date_end(r->date);
    return 1;
  }
  if (!r->date) {
    r->date = date_new(r);
    is_new = r->date != NULL;
    if (!is_new)
      return 0;
  }
  uv_update_time(&r->loop);
  int ms = uv_backend_timeout(&r->loop);
  if (ms < 0)
    return is_new;
  uint64_t at_ms = uv_now(&r->loop) + (uint64_t)ms;
  if (r->date->at_ms && r->date->at_ms <= at_ms)
    return is_new;
  r->date->at_ms = at_ms;
  timer_date_set(r->date->fd, at_ms);
  return is_new;
}

/* ---- dates ---- */

static uint64_t to_ns(lua_Number seconds) {
  return seconds >= FOREVER ? NEVER : (uint64_t)(seconds * 1e9);
}

static void on_due(uv_timer_t *uv) {
  struct timer *t = uv->data;
  completion_done(&t->told);
}

/* libuv counts in milliseconds, and cuts off what is below: so the date is rounded up. */
static void arm(struct timer *t) {
  struct reactor *r = t->told.reactor;
  assert(r); /* completion_init has set it */
  if (t->due_ns == NEVER)
    return;
  uint64_t due_ms = t->due_ns / MS + (t->due_ns % MS > 0);
  uv_update_time(&r->loop);
  uint64_t now_ms = uv_now(&r->loop);
  int is_due = t->due_ns <= uv_hrtime() || due_ms <= now_ms;
  uv_timer_start(&t->uv, on_due, is_due ? 0 : due_ms - now_ms, 0);
  expose(r);
}

/* The next one that is still to come: who was late does not catch up. */
static void advance(struct timer *t) {
  uint64_t now = uv_hrtime();
  if (t->every_ns == NEVER) {
    t->due_ns = NEVER;
    return;
  }
  t->due_ns += t->every_ns;
  if (t->due_ns <= now)
    t->due_ns = now + t->every_ns - (now - t->due_ns) % t->every_ns;
}

/* ---- the end of one ---- */

static void on_closed(uv_handle_t *uv) {
  struct timer *t = uv->data;
  t->told.reactor->nclosing--;
  reactor_discard(t->told.reactor, &t->told.trash);
}

static void end(struct timer *t) {
  struct reactor *r = t->told.reactor;
  if (t->object)
    *t->object = NULL;
  list_remove(&t->told.link);
  list_remove(&t->resident.link);
  r->ntimers--;
  r->nwork_timers -= (unsigned)t->is_work;
  r->nclosing++;
  uv_close((uv_handle_t *)&t->uv, on_closed);
}

static void release(struct resident *resident) {
  end(list_entry(resident, struct timer, resident));
}

static int push(lua_State *L, struct completion *c) {
  struct timer *t = timer_of(c);
  lua_pushliteral(L, "call");
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->trash.ref);
  list_remove(&c->link);
  if (t->every_ns) {
    advance(t);
    arm(t);
  } else {
    end(t);
  }
  return 2;
}

static void forget(struct completion *c) {
  (void)c; /* it was released with the timer */
}

static const struct completion_ops ops = {push, forget};

/* ---- for Lua ---- */

static void let_go(lua_State *L, int ends) {
  struct timer **object = luaL_checkudata(L, 1, BIND_TIMER), *t = *object;
  *object = NULL;
  if (!t)
    return;
  t->object = NULL;
  if ((ends || t->is_owned) && !reactor_foreign(t->told.reactor))
    end(t);
}

static int l_gc(lua_State *L) {
  let_go(L, 0);
  return 0;
}

/* close(timer): its callback is not called any more, not even where it is due. */
static int l_close(lua_State *L) {
  let_go(L, 1);
  return 0;
}

/* timer(seconds, f [, every [, of]]) -> timer: f() is a completion after so many seconds,
 * and then every so many. of: what it belongs to, and ends with when it is collected:
 * "sleep", or "reminder", which is not outstanding. Or nil, error */
static int l_timer(lua_State *L) {
  lua_Number seconds = luaL_checknumber(L, 1), every = luaL_optnumber(L, 3, 0);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  int is_owned = !lua_isnoneornil(L, 4);
  int is_work = !is_owned || *luaL_checkstring(L, 4) == 's';
  struct reactor *r = reactor_get(L);
  if (!r)
    return 2;
  struct timer **object = lua_newuserdatauv(L, sizeof(*object), 0);
  *object = NULL;
  luaL_setmetatable(L, BIND_TIMER);
  lua_pushvalue(L, 2);
  int ref = luaL_ref(L, LUA_REGISTRYINDEX);
  struct timer *t = calloc(1, sizeof(*t));
  if (!t) {
    luaL_unref(L, LUA_REGISTRYINDEX, ref);
    return bind_result_push(L, -ENOMEM);
  }
  completion_init(&t->told, r, &ops);
  t->told.trash.ref = ref;
  t->told.trash.block = t;
  uv_timer_init(&r->loop, &t->uv);
  t->uv.data = t;
  t->object = object;
  t->is_work = is_work;
  t->is_owned = is_owned;
  t->resident = (struct resident){.release = release};
  list_push(&r->residents, &t->resident.link);
  r->ntimers++;
  r->nwork_timers += (unsigned)is_work;
  r->on_turned = expose;
  *object = t;
  uint64_t wait_ns = to_ns(seconds);
  t->due_ns = wait_ns == NEVER ? NEVER : uv_hrtime() + wait_ns;
  t->every_ns = every > 0 ? to_ns(every) + (every < 1e-9) : 0;
  arm(t);
  reactor_touch(r);
  return 1;
}

static int l_copied(lua_State *L) {
  struct timer **object = lua_touserdata(L, 1);
  *object = NULL;
  return 0;
}

static int l_save(lua_State *L) {
  struct timer *const *object = lua_touserdata(L, 1);
  if (!*object || reactor_foreign((*object)->told.reactor))
    return 0;
  lua_pushliteral(L, "it has not fired for the last time, and an image holds no timers; "
                     "close it, and make it after loading");
  return 1;
}

void timer_open(lua_State *L) {
  luaL_newmetatable(L, BIND_TIMER);
  reactor_copies(L, l_copied, l_save);
  lua_pushliteral(L, "moonfork.timer");
  lua_setfield(L, -2, "__name");
  lua_pushcfunction(L, l_gc);
  lua_setfield(L, -2, "__gc");
  lua_pushcfunction(L, l_close);
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "__close");
  lua_createtable(L, 0, 1);
  lua_insert(L, -2);
  lua_setfield(L, -2, "close");
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

const luaL_Reg bind_timer_functions[] = {{"timer", l_timer}, {NULL, NULL}};
