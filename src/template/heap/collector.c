/* When the heap of a state is quiet, and how its clones collect. Runs in templates and in
 * clones.
 *
 * A template is sealed by a collection of everything and then stays in generational mode:
 * all its objects are old, so a clone's young collections neither mark nor sweep them,
 * and their pages stay shared. What Lua's own parameters can say is relative to the size
 * of the whole heap; a clone wants to be judged by what it made itself. So it looks after
 * its collector at each young collection:
 *
 *   young collection -> the canary is garbage -> its __gc asks for a turn
 *     -> a count hook, before the next instruction of Lua -> turn(): parameters for the
 *        next young collection, and a collection of everything when one is due
 *
 * Inside __gc the collector can't be called, inside the allocator nothing can; a hook may
 * collect like any other code. A thread with a hook of somebody's keeps it: then Lua's
 * own rule, set to be late, is what bounds the heap. */
#include "template/heap/collector.h"

#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>

#define KIB ((uint64_t)1024)
#define MIB (KIB * 1024)

enum {
  PROBE_MAX = 65536, /* strings tried to see whether the string table is about to grow */
  PROBE_SHARE = 256, /* one for so many bytes of heap */
  PROBE_SIZE = 48
};
static const uint64_t YOUNG_MIN = 1 * MIB, YOUNG_MAX = 64 * MIB, YOUNG_MIN_MAX = 8 * MIB;
/* A clone's own memory stays below 4 times what is alive in it and 32 MiB: before its
 * first collection of everything it grows by so much, ... */
static const uint64_t GROWTH_MIN = 16 * MIB, GROWTH_FIRST_MAX = 32 * MIB;
/* ... afterwards by twice its own and so much at most, ... */
static const uint64_t GROWTH_MARGIN = 16 * MIB;
/* ... and where it does not grow, what has died since is looked for when more has been
 * made than so many times the whole heap: twice as many each time that little is found.
 */
enum { SEARCH_INTERVAL_MIN = 2, SEARCH_INTERVAL_MAX = 16 };

/* Measured: with less, fork saves no more than the further mappings cost. */
static const uint64_t FREEZE_WORTH = 4 * MIB;

static const char collector_key, canary_key;

static uint64_t clamp(uint64_t n, uint64_t low, uint64_t high) {
  return n < low ? low : n > high ? high : n;
}

static uint64_t grown(uint64_t now, uint64_t then) {
  return now > then ? now - then : 0;
}

static uint64_t in_use(lua_State *L) {
  return (uint64_t)lua_gc(L, LUA_GCCOUNT) * KIB + (uint64_t)lua_gc(L, LUA_GCCOUNTB);
}

/* ---- Lua's parameters ---- */

#if LUA_VERSION_NUM >= 505
static void set_generational(lua_State *L, int young_percent, int major_percent) {
  lua_gc(L, LUA_GCGEN);
  if (young_percent)
    lua_gc(L, LUA_GCPARAM, LUA_GCPMINORMUL, young_percent);
  if (major_percent)
    lua_gc(L, LUA_GCPARAM, LUA_GCPMINORMAJOR, major_percent);
}

static void set_incremental(lua_State *L) {
  lua_gc(L, LUA_GCINC);
}

static void step_young(lua_State *L) {
  lua_gc(L, LUA_GCSTEP, (size_t)0);
}

static void set_debt(lua_State *L, uint64_t now, int percent, uint64_t young) {
  (void)L, (void)now, (void)percent, (void)young; /* the parameter says it all */
}
#else
static void set_generational(lua_State *L, int young_percent, int major_percent) {
  lua_gc(L, LUA_GCGEN, young_percent, major_percent);
}

static void set_incremental(lua_State *L) {
  lua_gc(L, LUA_GCINC, 0, 0, 0);
}

static void step_young(lua_State *L) {
  lua_gc(L, LUA_GCSTEP, 0);
}

/* A step of so many KiB only moves the point where the next collection starts, as long as
 * that stays ahead: after a young collection Lua has put it `percent` of the heap ahead.
 */
static void set_debt(lua_State *L, uint64_t now, int percent, uint64_t young) {
  int64_t ahead = (int64_t)(now / 100) * percent, kib = (ahead - (int64_t)young) / 1024;
  if (kib != 0 && kib > -(int64_t)(YOUNG_MAX / KIB) && kib < INT32_MAX)
    lua_gc(L, LUA_GCSTEP, (int)kib);
}
#endif

/* ---- a clone's collector ---- */

static uint64_t growth_limit(const struct collector *c) {
  if (!c->collected)
    return clamp(c->shared / 2, GROWTH_MIN, GROWTH_FIRST_MAX);
  uint64_t own = grown(c->base, c->shared);
  return clamp(clamp(c->base / 4, own, own * 2 + GROWTH_MARGIN), GROWTH_MIN, UINT64_MAX);
}

static uint64_t young_aim(const struct collector *c, uint64_t now) {
  return clamp(grown(now, c->shared) / 5, c->young_min, YOUNG_MAX);
}

static void note_outside(struct collector *c, uint64_t now) {
  if (c->heap)
    c->outside = now - heap_live(c->heap);
}

/* Where the next young collection shall be. Just after one: exact. */
static void aim(struct collector *c, lua_State *L) {
  uint64_t now = in_use(L);
  note_outside(c, now);
  c->young = young_aim(c, now);
  if (c->tuned)
    return;
  set_debt(L, now, c->percent, c->young);
  c->percent = (int)clamp(c->young * 100 / now, 1, 100);
  uint64_t late = growth_limit(c) * 4 + grown(now, c->base);
  set_generational(L, c->percent, (int)clamp(late * 100 / now, 8, 1000));
}

static void collect_young(struct collector *c, lua_State *L) {
  /* Also clears the mark of a bad collection: the step stays a young one. */
  set_generational(L, c->tuned ? 0 : c->percent, 0);
  step_young(L);
}

static int may_move(const struct collector *c) {
  return !c->is_alone || c->is_alone();
}

/* It writes a mark into each object and leaves the old ones with the marks that they had.
 * In a clone the template's are still shared afterwards, then. (A finaliser may have
 * started a thread.) */
static void collect_shared(struct collector *c, lua_State *L) {
  if (c->heap)
    heap_touch_all(c->heap);
  if (!c->heap || !c->in_clone || !may_move(c)) {
    lua_gc(L, LUA_GCCOLLECT);
    return;
  }
  heap_cover(c->heap);
  lua_gc(L, LUA_GCCOLLECT);
  heap_uncover(c->heap, may_move(c));
  heap_release(c->heap);
}

static void collect_all(struct collector *c, lua_State *L) {
  uint64_t before = in_use(L), own = grown(before, c->shared);
  int has_grown = grown(before, c->base) >= growth_limit(c);
  collect_shared(c, L);
  collect_young(c, L); /* 5.4.4 sets no aim after a full collection; a step does */
  c->base = in_use(L);
  /* What lives a little longer than two young collections is for this one; with fewer of
   * those more of it dies in time. */
  uint64_t found = grown(before, c->base);
  c->search_interval = has_grown || found >= own / 4
                           ? SEARCH_INTERVAL_MIN
                           : clamp(c->search_interval * 2, 0, SEARCH_INTERVAL_MAX);
  if (found > own / 2)
    c->young_min = clamp(own / 4, YOUNG_MIN, YOUNG_MIN_MAX);
  c->made = 0;
  c->collected = c->in_clone;
}

static int is_due_at(const struct collector *c, uint64_t now) {
  return grown(now, c->base) >= growth_limit(c) ||
         (grown(now, c->shared) > GROWTH_FIRST_MAX && c->made / c->search_interval > now);
}

static int is_due(const struct collector *c, lua_State *L) {
  return is_due_at(c, in_use(L));
}

static int is_ours(const struct collector *c) { /* the collector is ours to drive */
  return c->in_clone && c->sealed && c->gc != COLLECTOR_INCREMENTAL;
}

/* Is there anything to look after? Asked inside __gc, where Lua won't say what is in use;
 * the heap does. */
static int wants_turn(const struct collector *c) {
  if (!is_ours(c))
    return 0;
  if (!c->heap)
    return 1;
  uint64_t now = heap_live(c->heap) + c->outside, next = now / 100 * (uint64_t)c->percent;
  if (is_due_at(c, now))
    return 1;
  if (next < c->young * 3 / 4 || next > c->young * 3 / 2)
    return !c->tuned;
  uint64_t young = young_aim(c, now);
  return young > c->young * 5 / 4 || young < c->young * 4 / 5;
}

static void turn_hook(lua_State *L, lua_Debug *ar);

/* A young object that nothing refers to: each collection finds it. Whether one of them
 * has grown old instead (a stale slot of a stack is enough) can't be seen, so a new one
 * may be made at any time: only the newest counts. */
static int canary_new(lua_State *L, struct collector *c) { /* metatable -> */
  uint64_t *serial = lua_newuserdatauv(L, sizeof *serial, 0);
  *serial = ++c->canary;
  lua_insert(L, -2);
  lua_setmetatable(L, -2);
  lua_pushnil(L); /* over it, so that no stale slot keeps it */
  lua_replace(L, -2);
  lua_pop(L, 1);
  return 0;
}

static int canary_gc(lua_State *L) {
  struct collector *c = lua_touserdata(L, lua_upvalueindex(1));
  const uint64_t *serial = lua_touserdata(L, 1);
  if (c->before_finalisers)
    c->before_finalisers();
  if (!serial || *serial != c->canary)
    return 0;
  c->made += c->young;
  if (wants_turn(c) && (!lua_gethook(L) || lua_gethook(L) == turn_hook))
    lua_sethook(L, turn_hook, LUA_MASKCOUNT, 1);
  lua_getmetatable(L, 1);
  return canary_new(L, c);
}

static int canary_make(lua_State *L) { /* protected; collector -> */
  struct collector *c = lua_touserdata(L, 1);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &canary_key);
  return canary_new(L, c);
}

static void canary_place(struct collector *c, lua_State *L) {
  if (!lua_checkstack(L, 4))
    return;
  lua_pushcfunction(L, canary_make);
  lua_pushlightuserdata(L, c);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK)
    lua_pop(L, 1); /* no memory for it: Lua's own rule bounds the heap */
}

static void turn(struct collector *c, lua_State *L) {
  if (!is_ours(c) || !lua_gc(L, LUA_GCISRUNNING))
    return;
  if (is_due(c, L)) {
    collect_all(c, L);
    canary_place(c, L);
  }
  aim(c, L);
}

static struct collector *collector_of(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &collector_key);
  struct collector *c = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return c;
}

static void turn_hook(lua_State *L, lua_Debug *ar) {
  (void)ar;
  lua_sethook(L, NULL, 0, 0);
  struct collector *c = collector_of(L);
  if (c)
    turn(c, L);
  if (lua_gethook(L) == turn_hook)
    lua_sethook(L, NULL, 0, 0); /* asked for by what the turn itself collected */
  if (c && c->after_hook)
    c->after_hook(L); /* a signal may have come while there was none */
}

/* ---- collectgarbage ---- */

static int call_original(lua_State *L) { /* with the arguments as they are */
  int top = lua_gettop(L);
  lua_pushvalue(L, lua_upvalueindex(2));
  lua_insert(L, 1);
  lua_call(L, top, LUA_MULTRET);
  return lua_gettop(L);
}

static int gc_collect(lua_State *L, struct collector *c) {
  if (!is_ours(c) || lua_gc(L, LUA_GCCOUNT) < 0) /* in a finaliser it refuses */
    return call_original(L);
  if (is_due(c, L))
    collect_all(c, L);
  else
    collect_young(c, L);
  canary_place(c, L);
  aim(c, L);
  lua_pushinteger(L, 0);
  return 1;
}

/* A young collection is the whole cycle, but 5.4 never says so, and scripts that know the
 * incremental mode loop until it does. */
static int gc_step(lua_State *L, struct collector *c) {
  int n = call_original(L);
  if (!c->sealed || c->gc == COLLECTOR_INCREMENTAL || !lua_isboolean(L, -1))
    return n;
  lua_pushboolean(L, 1);
  return 1;
}

static int gc_generational(lua_State *L, struct collector *c) {
  c->tuned = !lua_isnoneornil(L, 2) || !lua_isnoneornil(L, 3);
  int n = call_original(L);
  if (c->gc ==
      COLLECTOR_INCREMENTAL) /* everything has just been marked: the copy is paid */
    c->collected = c->in_clone;
  c->gc = COLLECTOR_GENERATIONAL;
  c->incremental = 0;
  return n;
}

static int gc_incremental(lua_State *L, struct collector *c) {
  int n = call_original(L);
  c->gc = COLLECTOR_INCREMENTAL;
  c->incremental = 1;
  return n;
}

static int gc_restart(lua_State *L, struct collector *c) {
  int n = call_original(L);
  if (c->gc == COLLECTOR_STOP)
    c->gc = COLLECTOR_GENERATIONAL;
  c->stopped = 0;
  return n;
}

static const struct gc_option {
  const char *name;
  int nargs;                                     /* integers that may follow */
  int (*run)(lua_State *L, struct collector *c); /* NULL: as it always was */
} gc_options[] = {
    {"stop", 0, NULL},
    {"restart", 0, gc_restart},
    {"collect", 0, gc_collect},
    {"count", 0, NULL},
    {"step", 1, gc_step},
    {"isrunning", 0, NULL},
    {"generational", 2, gc_generational},
    {"incremental", 3, gc_incremental},
#if LUA_VERSION_NUM >= 505
    {"param", 0, NULL},
#else
    {"setpause", 1, NULL},
    {"setstepmul", 1, NULL},
#endif
};
enum { NGC_OPTIONS = sizeof gc_options / sizeof *gc_options };

/* Arguments are checked here, where an error still names the caller's line. */
static int collectgarbage(lua_State *L) {
  struct collector *c = lua_touserdata(L, lua_upvalueindex(1));
  const char *names[NGC_OPTIONS + 1] = {NULL};
  for (int i = 0; i < NGC_OPTIONS; i++)
    names[i] = gc_options[i].name;
  const struct gc_option *option = &gc_options[luaL_checkoption(L, 1, "collect", names)];
  for (int i = 0; i < option->nargs; i++)
    luaL_optinteger(L, 2 + i, 0);
  return option->run ? option->run(L, c) : call_original(L);
}

void collector_init(struct collector *c, lua_State *L, struct heap *heap, int gc) {
  *c = (struct collector){.heap = heap,
                          .gc = gc,
                          .dirty = 1,
                          .young = YOUNG_MIN,
                          .young_min = YOUNG_MIN,
                          .search_interval = SEARCH_INTERVAL_MIN,
                          .percent = 20,
                          .freeze_worth = FREEZE_WORTH};
  luaL_checkstack(L, 4, NULL);
  lua_pushlightuserdata(L, c);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &collector_key);
  lua_createtable(L, 0, 1);
  lua_pushlightuserdata(L, c);
  lua_pushcclosure(L, canary_gc, 1);
  lua_setfield(L, -2, "__gc");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &canary_key);
  if (lua_getglobal(L, LUA_GNAME) != LUA_TTABLE) {
    lua_pop(L, 1);
    return; /* a host without the base library has no collectgarbage either */
  }
  lua_pushlightuserdata(L, c);
  if (lua_getfield(L, -2, "collectgarbage") != LUA_TFUNCTION) {
    lua_pop(L, 3);
    return;
  }
  lua_pushcclosure(L, collectgarbage, 2);
  lua_setfield(L, -2, "collectgarbage");
  lua_pop(L, 1);
}

void collector_touch(struct collector *c) {
  c->dirty = 1;
}

/* ---- sealing ---- */

/* Lua doubles the string table when it is full, which writes to every short string there
 * is. So: fill it with strings of no use. If it grows soon, better now than in each
 * clone; where it doesn't, there is room. The strings lie outside the heap and leave no
 * holes. */
static void make_string_room(struct collector *c, lua_State *L) {
  uint64_t n = in_use(L) / PROBE_SHARE;
  n = n < PROBE_MAX ? n : PROBE_MAX;
  int running = lua_gc(L, LUA_GCISRUNNING);
  lua_gc(L, LUA_GCSTOP); /* else they would be collected as they come */
  heap_scratch_begin(c->heap, n * PROBE_SIZE);
  char text[24] = "\1\2";
  for (uint64_t i = 0; i < n && !heap_scratch_grown(c->heap); i++) {
    memcpy(text + 2, &i, sizeof i);
    lua_pushlstring(L, text, 2 + sizeof i);
    lua_pop(L, 1);
  }
  heap_scratch_stop(c->heap);
  if (running)
    lua_gc(L, LUA_GCRESTART);
}

/* Twice, because what a finaliser has let go of is free only after the next. */
static void settle_all(struct collector *c, lua_State *L) {
  if (c->heap && heap_is_frozen(c->heap) && may_move(c))
    heap_thaw(c->heap);
  lua_gc(L, LUA_GCCOLLECT);
  if (c->heap)
    make_string_room(c, L);
  c->incremental = c->gc == COLLECTOR_INCREMENTAL;
  if (c->incremental)
    set_incremental(L);
  else
    set_generational(L, 0, 0); /* collects everything when it is entered */
  lua_gc(L, LUA_GCCOLLECT);
  c->base = in_use(L);
  c->collected = c->in_clone;
}

/* A little was added: three steps make it old without a look at the rest. */
static void settle_young(struct collector *c, lua_State *L) {
  for (int i = 0; i < 3; i++)
    collect_young(c, L);
}

static int settle(lua_State *L) { /* protected; collector -> */
  struct collector *c = lua_touserdata(L, 1);
  uint64_t added = grown(in_use(L), c->base);
  int all = !c->sealed || c->incremental != (c->gc == COLLECTOR_INCREMENTAL) ||
            added > (c->in_clone ? c->base : c->base / 4);
  if (c->stopped && c->gc != COLLECTOR_STOP) {
    lua_gc(L, LUA_GCRESTART);
    c->stopped = 0;
  }
  if (all)
    settle_all(c, L);
  else if (c->gc != COLLECTOR_INCREMENTAL)
    settle_young(c, L);
  if (c->heap)
    heap_scratch_end(c->heap);
  return 0;
}

int collector_seal(struct collector *c, lua_State *L) {
  if (!c->dirty)
    return 0;
  if (!lua_checkstack(L, 8))
    return -ENOMEM;
  int running = lua_gc(L, LUA_GCISRUNNING);
  lua_pushcfunction(L, settle);
  lua_pushlightuserdata(L, c);
  if (lua_pcall(L, 1, 0, 0) != LUA_OK) {
    lua_pop(L, 1);
    if (c->heap)
      heap_scratch_stop(c->heap);
    if (running)
      lua_gc(L, LUA_GCRESTART);
    return -ENOMEM;
  }
  c->shared = in_use(L);
  c->sealed = 1;
  c->seals++;
  c->dirty = 0;
  if (c->gc != COLLECTOR_INCREMENTAL) {
    collect_young(c, L);
    aim(c, L);
  }
  if (c->gc == COLLECTOR_STOP && lua_gc(L, LUA_GCISRUNNING)) {
    lua_gc(L, LUA_GCSTOP);
    c->stopped = 1;
  }
  if (c->heap) {
    heap_seal(c->heap);
    if (c->gc != COLLECTOR_INCREMENTAL && /* that writes to all of it in every cycle */
        heap_freeze_gain(c->heap) >= c->freeze_worth && may_move(c))
      heap_freeze(c->heap);
  }
  return 0;
}

void collector_forked(struct collector *c, lua_State *L) {
  c->in_clone = 1;
  c->collected = 0;
  c->made = 0;
  c->young_min = YOUNG_MIN;
  c->search_interval = SEARCH_INTERVAL_MIN;
  c->shared = c->base = in_use(L);
  note_outside(c, c->base);
  if (c->sealed && c->gc != COLLECTOR_INCREMENTAL)
    canary_place(c, L);
}

void collector_collect_all(struct collector *c, lua_State *L) {
  if (lua_gc(L, LUA_GCCOUNT) < 0)
    return; /* in a finaliser */
  if (!c->sealed || c->gc == COLLECTOR_INCREMENTAL) {
    if (c->heap)
      heap_touch_all(c->heap);
    lua_gc(L, LUA_GCCOLLECT);
    c->collected = c->in_clone;
    return;
  }
  collect_all(c, L);
  if (!is_ours(c))
    return;
  canary_place(c, L);
  aim(c, L);
}
