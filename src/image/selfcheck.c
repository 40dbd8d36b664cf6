/* A small state with one of everything is built in a region whose allocator records every
 * block.
 *
 * 1. The walk must meet exactly these blocks with exactly these sizes (compare.h), and
 * their sum must be what lua_gc counts. Nothing else is read. Other layouts end here.
 * 2. The region is copied and the copy relocated; the original is unmapped. The copy goes
 * on: a chunk that asks what was put there, a full collection, the comparison once more,
 * lua_close. No block remains.
 *
 * Blocks are never used twice and the region begins as zeros: what a field holds before
 * it is first written is a null pointer, and what leads to a freed block is seen. */
#include "image/selfcheck.h"

#include "image/compare.h"
#include "image/relocate.h"

#include <lauxlib.h>
#include <lualib.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { REGION = 1 << 20, GRAIN = 16, BLOCKS = 8192 };

struct region {
  char *base;
  uint32_t used, nblocks, nalive;
  size_t nbytes;
  struct {
    uint32_t offset, nbytes; /* 0: it was freed */
    bool met;
  } * blocks;                     /* the block 0 is none */
  uint16_t owner[REGION / GRAIN]; /* of each 16 bytes: the number of its block */
};

static void *region_take(struct region *r, size_t nbytes) {
  size_t n = (nbytes + GRAIN - 1) / GRAIN;
  if (nbytes > REGION - r->used || n * GRAIN > REGION - r->used || r->nblocks == BLOCKS)
    return NULL;
  uint32_t b = r->nblocks++;
  r->blocks[b].offset = r->used;
  r->blocks[b].nbytes = (uint32_t)nbytes;
  for (size_t i = 0; i < n; i++)
    r->owner[r->used / GRAIN + i] = (uint16_t)b;
  r->used += (uint32_t)(n * GRAIN);
  r->nalive++;
  r->nbytes += nbytes;
  return r->base + r->blocks[b].offset;
}

static void region_drop(struct region *r, const void *p) {
  uint16_t b = r->owner[((const char *)p - r->base) / GRAIN];
  r->nbytes -= r->blocks[b].nbytes;
  r->blocks[b].nbytes = 0;
  r->nalive--;
}

static void *region_allocate(void *data, void *p, size_t old, size_t n) {
  struct region *r = data;
  void *q = NULL;
  if (n && !(q = region_take(r, n)))
    return NULL;
  if (p && q)
    memcpy(q, p, old < n ? old : n);
  if (p)
    region_drop(r, p);
  return q;
}

static uint16_t region_block(const struct region *r, const void *at) {
  uintptr_t offset = (uintptr_t)at - (uintptr_t)r->base;
  if (offset >= REGION)
    return 0;
  uint16_t b = r->owner[offset / GRAIN];
  return offset - r->blocks[b].offset < r->blocks[b].nbytes ? b : 0;
}
static bool region_find(void *context, const void *at, struct compare_block *ret_block) {
  struct region *r = context;
  uint16_t b = region_block(r, at);
  if (!b)
    return false;
  *ret_block = (struct compare_block){r->base + r->blocks[b].offset, r->blocks[b].nbytes};
  return true;
}
static bool region_meet(void *context, const void *start) {
  struct region *r = context;
  uint16_t b = region_block(r, start);
  if (r->blocks[b].met)
    return false;
  return r->blocks[b].met = true;
}
static const struct compare_allocator recorded = {region_find, region_meet};

/* ---- a state with one of everything ---- */

static const char BUILD[] =
    "local weak = {setmetatable({}, {__mode = 'k'}), setmetatable({}, {__mode = 'v'}),\n"
    "  setmetatable({}, {__mode = 'kv'})}\n"
    "local key = {}\n"
    "for i, t in ipairs(weak) do t[key] = {i}; t[{}] = key; t[i] = key end\n"
    "local list, names = {1, 2, 3, 4, 5}, {}\n"
    "list[6] = 6; list[7] = 7; list[7] = nil\n"
    "for i = 1, 20 do names['name' .. i] = {i}; names[i + 0.5] = i end\n"
    "for i = 1, 20, 2 do names['name' .. i] = nil end\n"
    "names[print] = 'print'; names[key] = 'key'; names[true] = false\n"
    "local closed = {}\n"
    "local co = coroutine.create(function(...)\n"
    "  local n, guard <close> = 0, setmetatable({}, {__close = function() closed[1] = "
    "'co' end})\n"
    "  local function count(m) n = n + m return n end\n"
    "  local all = {...}\n"
    "  pcall(function(...)\n"
    "    for i = 1, 3 do count(coroutine.yield(i, count, ...)) end\n"
    "    error {n = n}\n"
    "  end, 7, 'seven')\n"
    "  return n, #all\n"
    "end)\n"
    "local _, one, count = coroutine.resume(co, 'a', 'b', 'c')\n"
    "count(40)\n"
    "local finished = setmetatable({}, {__gc = function() closed[2] = 'gc' end})\n"
    "local long = ('long '):rep(50)\n"
    "local loaded = load('local t = ...' .. ('\\nt[#t + 1] = 1.5'):rep(200) .. "
    "'\\nreturn t')\n"
    "local dead = coroutine.wrap(function() return 1 end)\n"
    "dead()\n"
    "collectgarbage 'generational'; collectgarbage 'step'\n"
    "for i = 1, 5 do list[i] = {list[i]} end\n"
    "collectgarbage 'incremental'; collectgarbage 'step'\n"
    "return function(userdata)\n"
    "  assert(coroutine.resume(co, 1) and coroutine.resume(co, 2))\n"
    "  local ok, n, nall = coroutine.resume(co, 3)\n"
    "  assert(ok and n == 46 and nall == 3 and closed[1] == 'co')\n"
    "  assert(count(4) == 50 and coroutine.status(co) == 'dead')\n"
    "  for i = 1, 3 do assert(weak[i][i] == key and (i > 1 or weak[i][key][1] == i)) "
    "end\n"
    "  local seen = 0\n"
    "  for k, v in pairs(names) do seen = seen + 1; assert(names[k] == v) end\n"
    "  assert(seen == 33 and names.name2[1] == 2 and names.name1 == nil)\n"
    "  assert(names[key] == 'key' and names[print] == 'print' and names[true] == false)\n"
    "  assert(#list == 6 and list[5][1] == 5 and long == ('long '):rep(50))\n"
    "  assert(#loaded {} == 200)\n"
    "  list[100], names.more, names[{}] = {}, {}, {}\n"
    "  assert(userdata and not pcall(load('local t; return t.x', '=x')))\n"
    "  finished, key, weak = nil, nil, nil\n"
    "  collectgarbage(); collectgarbage()\n"
    "  assert(closed[2] == 'gc')\n"
    "  return 'moved'\n"
    "end\n";

static int build(lua_State *L) {
  luaL_requiref(L, "_G", luaopen_base, 1);
  luaL_requiref(L, LUA_COLIBNAME, luaopen_coroutine, 1);
  luaL_requiref(L, LUA_STRLIBNAME, luaopen_string, 1);
  lua_settop(L, 0);
  lua_newuserdatauv(L, 100, 3);
  lua_pushcfunction(L, luaopen_base);
  lua_setiuservalue(L, 1, 2);
  lua_newuserdatauv(L, 7, 0);
  lua_pushlightuserdata(L, L);
  lua_setfield(L, LUA_REGISTRYINDEX, "moonfork.light");
  if (luaL_loadstring(L, BUILD))
    return lua_error(L);
  lua_call(L, 0, 1);
  return 3;
}

static int ask(lua_State *L) {
  lua_pushvalue(L, 3);
  lua_pushvalue(L, 1);
  lua_call(L, 1, 1);
  lua_pushboolean(L, !strcmp(luaL_checkstring(L, -1), "moved"));
  lua_getfield(L, LUA_REGISTRYINDEX, "moonfork.light");
  const void *main = lua_touserdata(L, -1);
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  lua_pushboolean(L, main == lua_topointer(L, -1) && lua_toboolean(L, -3));
  return 1;
}

/* ---- the check ---- */

static const char *compare(struct region *r, lua_State *L) {
  struct compare_result result;
  for (uint32_t i = 0; i < r->nblocks; i++)
    r->blocks[i].met = false;
  result = compare_state(L, &recorded, r);
  if (result.fault)
    return result.fault;
  if (result.nblocks != r->nalive)
    return "a block is met by no walk";
  if (result.nbytes !=
      (size_t)lua_gc(L, LUA_GCCOUNT) * 1024 + (size_t)lua_gc(L, LUA_GCCOUNTB))
    return "Lua counts another number of bytes";
  return NULL;
}

/* The same number of bytes a multiple of RELOCATE_STEP away. */
static char *another_place(const char *base) {
  for (int i = 1; i <= 64; i++) {
    int64_t step = (i % 2 ? 1 : -1) * (int64_t)((i + 1) / 2);
    char *at = (char *)((uintptr_t)base + (uintptr_t)(step * (int64_t)RELOCATE_STEP));
    char *got =
        mmap(at, REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (got == at)
      return got;
    if (got != MAP_FAILED)
      munmap(got, REGION);
  }
  return NULL;
}

static const char *move(struct region *r, lua_State **L) {
  char *to = another_place(r->base), *from = r->base;
  if (!to)
    return "there is no address space a multiple of 4 GiB away";
  memcpy(to, from, r->used);
  *L = (lua_State *)(void *)(to + ((char *)*L - from));
  relocate_state(*L, from, REGION, (intptr_t)((uintptr_t)to - (uintptr_t)from));
  munmap(from, REGION);
  r->base = to;
  return NULL;
}

static const char *check_with(struct region *r, lua_State *L) {
  const char *reason;
  lua_pushcfunction(L, build);
  if (lua_pcall(L, 0, 3, 0))
    return "the self-check's state can't be built";
  if ((reason = compare(r, L)) || (reason = move(r, &L)))
    return reason; /* the state is given up with its region */
  lua_pushcfunction(L, ask);
  lua_insert(L, 1);
  if (lua_pcall(L, 3, 1, 0) || !lua_toboolean(L, -1))
    return "a moved state is not what it was";
  lua_settop(L, 0);
  lua_gc(L, LUA_GCCOLLECT);
  if ((reason = compare(r, L)))
    return reason;
  lua_close(L);
  return r->nalive ? "a moved state is not closed completely" : NULL;
}

const char *selfcheck_run(selfcheck_newstate newstate) {
  if (sizeof(void *) != 8)
    return "addresses have no 64 bits";
  size_t nbytes = sizeof(struct region) + BLOCKS * sizeof *((struct region *)0)->blocks;
  struct region *r =
      mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (r == MAP_FAILED)
    return "there is no memory for the self-check";
  r->blocks = (void *)(r + 1);
  r->nblocks = 1;
  const char *reason = "there is no memory for the self-check";
  r->base =
      mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (r->base != MAP_FAILED) {
    lua_State *L = newstate(region_allocate, r);
    reason = L ? check_with(r, L) : reason;
    munmap(r->base, REGION);
  }
  munmap(r, nbytes);
  return reason;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const char *answer;
static char text[200];

static lua_State *new_state(lua_Alloc allocate, void *data) {
#if LUA_VERSION_NUM == 504
  return lua_newstate(allocate, data);
#else
  return lua_newstate(allocate, data, 0);
#endif
}

static void run_once(void) {
  const char *reason = selfcheck_run(new_state);
  if (!reason)
    return;
  snprintf(text, sizeof text,
           "this build of Lua is laid out in another way than 5.4.3 and later: %s",
           reason);
  answer = text;
}

const char *selfcheck_reason(void) {
  pthread_once(&once, run_once);
  return answer;
}
