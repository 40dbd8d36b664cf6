/* See audit.h: watching modules, and the check of every fork. What it finds besides is in
 * findings.c. Where there is no /proc it knows nothing and lets pass. */
#include "template/audit/audit.h"

#include "os/fd.h"
#include "os/proc.h"
#include "template/audit/descriptor.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char random_key, kept_key, notes_key; /* of the registry */

void audit_init(struct audit *a, int (*is_ours)(int fd, void *data), void *data) {
  memset(a, 0, sizeof *a);
  a->is_ours = is_ours;
  a->data = data;
}

void audit_touch(struct audit *a) {
  a->known = 0;
}

/* ---- names ---- */

/* A name that fits into a message and a terminal, whatever the module is called. */
static void copy_name(char *to, const char *name, size_t max) {
  size_t n = 0;
  for (; name[n] != '\0' && n < max - 1; n++)
    to[n] = (unsigned char)name[n] < ' ' || name[n] == 0x7f ? '?' : name[n];
  to[n] = '\0';
}

/* Its number. Past the last one nobody is known. */
static audit_name intern(struct audit *a, const char *name, int is_module) {
  struct audit_who who = {.is_module = is_module};
  copy_name(who.name, name, sizeof who.name);
  for (int i = 1; i <= a->nnames; i++)
    if (a->names[i].is_module == is_module && strcmp(a->names[i].name, who.name) == 0)
      return (audit_name)i;
  if (a->nnames == AUDIT_NAMES_MAX - 1)
    return 0;
  a->names[++a->nnames] = who;
  return (audit_name)a->nnames;
}

const char *audit_module(const struct audit *a, audit_name by) {
  return by && a->names[by].is_module ? a->names[by].name : NULL;
}

const char *audit_of(const struct audit *a, audit_name by, char *text, size_t n) {
  text[0] = '\0';
  if (by)
    snprintf(text, n, " of %s '%s'", a->names[by].is_module ? "module" : "code given to",
             a->names[by].name);
  return text;
}

/* ---- blame ---- */

/* The entry of fd if it is still the same object. A stale one is dropped. */
static struct audit_seen *find_seen(struct audit *a, int fd) {
  struct stat st;
  for (int i = 0; i < a->nseen; i++) {
    struct audit_seen *s = &a->seen[i];
    if (s->fd != fd)
      continue;
    if (fstat(fd, &st) == 0 && st.st_dev == s->device && st.st_ino == s->inode)
      return s;
    *s = a->seen[--a->nseen];
    return NULL;
  }
  return NULL;
}

audit_name audit_owner(struct audit *a, int fd) {
  const struct audit_seen *s = find_seen(a, fd);
  return s ? s->by : 0;
}

static void blame_fd(struct audit *a, int fd, audit_name by) {
  struct stat st;
  if (find_seen(a, fd) != NULL || a->nseen == AUDIT_SEEN_MAX || fstat(fd, &st) != 0)
    return; /* the innermost has spoken first */
  a->seen[a->nseen++] = (struct audit_seen){fd, st.st_dev, st.st_ino, by};
}

static void blame_threads(struct audit *a, int before, int now, audit_name by) {
  if (now < a->nthreads)
    a->nthreads = now;
  if (now > before && now > a->nthreads) {
    a->threads_by = by;
    a->nthreads = now;
  }
}

static void blame_signals(struct audit *a, const struct audit_mark *before,
                          const struct audit_mark *now, audit_name by) {
  if (now->caught == before->caught && now->ignored == before->ignored)
    return;
  uint64_t new = (now->caught & ~before->caught) | (now->ignored & ~before->ignored);
  uint64_t gone = ~(now->caught | now->ignored);
  for (int i = 0; i < AUDIT_MARK_SIGNALS; i++) {
    if (gone >> i & 1)
      a->signal_by[i] = 0;
    else if ((new >> i & 1) && !a->signal_by[i])
      a->signal_by[i] = by;
  }
}

static void blame_facts(struct audit *a, const struct audit_mark *before,
                        const struct audit_mark *now, audit_name by) {
  for (int i = 0; i < FACT_COUNT; i++) {
    struct audit_change *change = &a->change[i];
    if (change->by && now->fact[i] == change->from)
      change->by = 0; /* as it was */
    else if (!change->by && now->fact[i] != before->fact[i])
      *change = (struct audit_change){by, before->fact[i]};
  }
}

static void compare(struct audit *a, lua_State *L, const struct audit_mark *before,
                    audit_name by) {
  struct audit_mark now;
  audit_mark_take(&now, L, &a->sources);
  audit_touch(a);
  blame_threads(a, before->threads, now.threads, by);
  blame_signals(a, before, &now, by);
  blame_facts(a, before, &now, by);
  if (memcmp(now.open, before->open, sizeof now.open) == 0)
    return;
  for (int fd = 3; fd < (int)AUDIT_MARK_FDS; fd++)
    if (audit_mark_has_fd(&now, fd) && !audit_mark_has_fd(before, fd))
      blame_fd(a, fd, by);
}

void audit_before(struct audit *a, lua_State *L, const char *name, int is_module) {
  a->loading = intern(a, name, is_module);
  audit_mark_take(&a->outermost, L, &a->sources);
}

void audit_after(struct audit *a, lua_State *L, const char *name, int is_module) {
  a->loading = 0;
  compare(a, L, &a->outermost, intern(a, name, is_module));
}

/* ---- watched functions ---- */

/* Upvalues of each: the audit, the function that was there. */
static struct audit *audit_of_call(lua_State *L) {
  return lua_touserdata(L, lua_upvalueindex(1));
}

/* Calls the function that was there with all arguments. */
static int call_original(lua_State *L, int nresults) {
  lua_pushvalue(L, lua_upvalueindex(2));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, nresults);
  return lua_gettop(L);
}

/* What is loaded, as it was before; put back by the end of the load, an error too. */
struct loading {
  struct audit *a;
  audit_name before;
};

static int end_loading(lua_State *L) {
  const struct loading *l = lua_touserdata(L, 1);
  l->a->loading = l->before;
  return 0;
}

static void begin_loading(lua_State *L, struct audit *a, audit_name by) {
  struct loading *l = lua_newuserdatauv(L, sizeof *l, 0);
  *l = (struct loading){a, a->loading};
  if (luaL_newmetatable(L, "moonfork.loading")) {
    lua_pushcfunction(L, end_loading);
    lua_setfield(L, -2, "__close");
  }
  lua_setmetatable(L, -2);
  lua_insert(L, 1);
  lua_toclose(L, 1);
  a->loading = by;
}

/* Errors are left to who called: the next bracket outside accounts for what the failed
 * one has left. */
static int watched_loader(lua_State *L) {
  struct audit_mark before;
  struct audit *a = audit_of_call(L);
  audit_name by = intern(a, lua_type(L, 1) == LUA_TSTRING ? lua_tostring(L, 1) : "?", 1);
  begin_loading(L, a, by);
  audit_mark_take(&before, L, &a->sources);
  lua_pushvalue(L, lua_upvalueindex(2));
  lua_insert(L, 2);
  lua_call(L, lua_gettop(L) - 2, LUA_MULTRET);
  compare(a, L, &before, by);
  return lua_gettop(L) - 1;
}

/* What a searcher finds is watched while it loads; require itself stays as it is, and
 * with it the positions in its messages. */
static int watched_searcher(lua_State *L) {
  call_original(L, 2);
  if (!lua_isfunction(L, 1))
    return 2;
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushvalue(L, 1);
  lua_pushcclosure(L, watched_loader, 2);
  lua_replace(L, 1);
  return 2;
}

void audit_note_call(struct audit *a, enum audit_call call) {
  if (a->loading)
    a->names[a->loading].calls |= 1u << call;
}

static int watched_randomseed(lua_State *L) {
  struct audit *a = audit_of_call(L);
  audit_note_call(a, AUDIT_CALL_SEED);
  if (!lua_isnoneornil(L, 1) && a->seed_at[0] == '\0') {
    luaL_where(L, 1);
    const char *where = lua_tostring(L, -1);
    copy_name(a->seed_at, *where != '\0' ? where : "a C function", sizeof a->seed_at);
    for (size_t n = strlen(a->seed_at); n > 0 && strchr(": ", a->seed_at[n - 1]); n--)
      a->seed_at[n - 1] = '\0'; /* what a message would follow */
    a->seed_by = a->loading;
    lua_pop(L, 1);
  }
  return call_original(L, LUA_MULTRET);
}

static void note_read(struct audit *a, const char *variable) {
  struct audit_read read = {.by = a->loading};
  copy_name(read.variable, variable, sizeof read.variable);
  for (int i = 0; i < a->nreads; i++)
    if (a->reads[i].by == read.by && strcmp(a->reads[i].variable, read.variable) == 0)
      return;
  if (a->nreads < AUDIT_READS_MAX)
    a->reads[a->nreads++] = read;
}

/* Functions read it when they run, which is as it should be: what is loaded counts. */
static int watched_getenv(lua_State *L) {
  struct audit *a = audit_of_call(L);
  const char *variable = luaL_checkstring(L, 1); /* here its message names the caller */
  if (a->loading)
    note_read(a, variable);
  return call_original(L, LUA_MULTRET);
}

static int watched_tmpname(lua_State *L) {
  audit_note_call(audit_of_call(L), AUDIT_CALL_TMPNAME);
  return call_original(L, LUA_MULTRET);
}

/* Replaces the function on top by one that watches it. */
static void wrap(struct audit *a, lua_State *L, lua_CFunction f) {
  lua_pushlightuserdata(L, a);
  lua_insert(L, -2);
  lua_pushcclosure(L, f, 2);
}

static void watch_searchers(struct audit *a, lua_State *L) {
  lua_Integer n = luaL_len(L, -1);
  for (lua_Integer i = 1; i <= n; i++) {
    lua_geti(L, -1, i);
    wrap(a, L, watched_searcher);
    lua_seti(L, -2, i);
  }
}

static void watch_function(struct audit *a, lua_State *L, const char *library,
                           const char *name, lua_CFunction f) {
  int top = lua_gettop(L);
  if (lua_getglobal(L, library) == LUA_TTABLE && lua_getfield(L, -1, name) != LUA_TNIL) {
    wrap(a, L, f);
    lua_setfield(L, -2, name);
  }
  lua_settop(L, top);
}

/* The state of math.random is the function's upvalue, kept by the registry even when the
 * function is replaced. */
static void watch_random(struct audit *a, lua_State *L) {
  int top = lua_gettop(L);
  if (lua_getglobal(L, "math") == LUA_TTABLE &&
      lua_getfield(L, -1, "random") == LUA_TFUNCTION && lua_iscfunction(L, -1) &&
      lua_getupvalue(L, -1, 1) != NULL && lua_type(L, -1) == LUA_TUSERDATA) {
    a->sources.random_state = lua_touserdata(L, -1);
    a->sources.random_size = lua_rawlen(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &random_key);
  }
  lua_settop(L, top);
}

/* ---- functions that must stay ---- */

static const struct {
  const char *library, *name;
} kept[] = {
    {"os", "exit"},          {"math", "randomseed"}, {"_G", "collectgarbage"},
    {"coroutine", "resume"}, {"coroutine", "wrap"},
};
enum { NKEPT = sizeof kept / sizeof *kept };

/* Pushes the function as it is now; of a host without the library: nil. */
static void push_kept(lua_State *L, int i) {
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_pushstring(L, kept[i].library);
  if (lua_rawget(L, -2) == LUA_TTABLE) {
    lua_pushstring(L, kept[i].name);
    lua_rawget(L, -2);
  } else {
    lua_pushnil(L);
  }
  lua_replace(L, -3);
  lua_pop(L, 1);
}

static void remember_kept(lua_State *L) {
  lua_createtable(L, NKEPT, 0);
  for (int i = 0; i < NKEPT; i++) {
    push_kept(L, i);
    lua_rawseti(L, -2, i + 1);
  }
  lua_rawsetp(L, LUA_REGISTRYINDEX, &kept_key);
}

int audit_next_replaced(lua_State *L, int *at) {
  for (; *at < NKEPT; ++*at) {
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &kept_key) != LUA_TTABLE) {
      lua_pop(L, 1);
      return 0;
    }
    lua_rawgeti(L, -1, *at + 1);
    push_kept(L, *at);
    int same = lua_rawequal(L, -1, -2);
    lua_pop(L, 3);
    if (same)
      continue;
    if (strcmp(kept[*at].library, LUA_GNAME) == 0)
      lua_pushstring(L, kept[*at].name);
    else
      lua_pushfstring(L, "%s.%s", kept[*at].library, kept[*at].name);
    ++*at;
    return 1;
  }
  return 0;
}

void audit_watch(struct audit *a, lua_State *L) {
  luaL_checkstack(L, 6, NULL);
  int top = lua_gettop(L);
  if (lua_getglobal(L, "package") == LUA_TTABLE &&
      lua_getfield(L, -1, "searchers") == LUA_TTABLE)
    watch_searchers(a, L);
  lua_settop(L, top);
  watch_function(a, L, "math", "randomseed", watched_randomseed);
  watch_function(a, L, "os", "getenv", watched_getenv);
  watch_function(a, L, "os", "tmpname", watched_tmpname);
  watch_random(a, L);
  remember_kept(L);
}

/* ---- images ---- */

/* What was noted of the interpreter: what is of the process (descriptors, threads,
 * signals and most facts) is not in an image. reads and names follow. */
struct notes {
  char seed_at[AUDIT_NAME_MAX];
  audit_name seed_by;
  struct audit_change change[FACT_COUNT];
  int nreads, nnames;
};

static int is_of_lua(int fact) {
  return fact == FACT_COLLECTOR_STOPPED || fact == FACT_COLLECTOR_MODE ||
         fact == FACT_HOOK || fact == FACT_RANDOM;
}

void audit_keep(const struct audit *a, lua_State *L) {
  struct notes notes;
  luaL_Buffer b;
  luaL_checkstack(L, LUA_MINSTACK, NULL);
  memset(&notes, 0, sizeof notes);
  memcpy(notes.seed_at, a->seed_at, sizeof notes.seed_at);
  notes.seed_by = a->seed_by;
  notes.nreads = a->nreads;
  notes.nnames = a->nnames;
  for (int i = 0; i < FACT_COUNT; i++)
    if (is_of_lua(i))
      notes.change[i] = a->change[i];
  luaL_buffinit(L, &b);
  luaL_addlstring(&b, (const char *)&notes, sizeof notes);
  luaL_addlstring(&b, (const char *)a->reads, (size_t)a->nreads * sizeof *a->reads);
  luaL_addlstring(&b, (const char *)(a->names + 1), (size_t)a->nnames * sizeof *a->names);
  luaL_pushresult(&b);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &notes_key);
}

void audit_keep_end(lua_State *L) {
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &notes_key);
}

static void take_notes(struct audit *a, const char *text, size_t n) {
  struct notes notes;
  if (n < sizeof notes)
    return;
  memcpy(&notes, text, sizeof notes);
  size_t nreads = (size_t)notes.nreads, nnames = (size_t)notes.nnames;
  if (nreads > AUDIT_READS_MAX || nnames >= AUDIT_NAMES_MAX ||
      n != sizeof notes + nreads * sizeof *a->reads + nnames * sizeof *a->names)
    return; /* checked like all that a file says */
  memcpy(a->seed_at, notes.seed_at, sizeof a->seed_at);
  memcpy(a->change, notes.change, sizeof a->change);
  a->seed_by = notes.seed_by;
  a->nreads = notes.nreads;
  a->nnames = notes.nnames;
  memcpy(a->reads, text + sizeof notes, nreads * sizeof *a->reads);
  memcpy(a->names + 1, text + n - nnames * sizeof *a->names, nnames * sizeof *a->names);
}

void audit_resume(struct audit *a, lua_State *L) {
  size_t n;
  luaL_checkstack(L, 2, NULL);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &random_key) == LUA_TUSERDATA) {
    a->sources.random_state = lua_touserdata(L, -1);
    a->sources.random_size = lua_rawlen(L, -1);
  }
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &notes_key) == LUA_TSTRING) {
    const char *text = lua_tolstring(L, -1, &n);
    take_notes(a, text, n);
  }
  lua_pop(L, 2);
  audit_keep_end(L);
}

/* ---- the check ---- */

struct finding audit_thread_finding(const struct audit *a, int threads, char *room,
                                    size_t n) {
  char by[AUDIT_NAME_MAX + 32];
  snprintf(room, n, "the process has %d threads, the last%s", threads,
           audit_of(a, a->threads_by, by, sizeof by));
  if (!a->threads_by)
    snprintf(room, n, "the process has %d threads", threads);
  return (struct finding){AUDIT_THREAD, -1, audit_module(a, a->threads_by), room};
}

static void first_refused(int fd, void *data) {
  struct audit *a = data;
  enum audit_kind kind;
  char what[DESCRIPTOR_TEXT_MAX], by[AUDIT_NAME_MAX + 32], text[AUDIT_REASON_MAX];
  if (a->unsafe || (a->is_ours && a->is_ours(fd, a->data)) ||
      !descriptor_look(fd, &kind, what, sizeof what) ||
      audit_kinds[kind].severity != AUDIT_REFUSES || fd_is_labelled_loop(fd))
    return;
  snprintf(text, sizeof text, "descriptor %d is %s%s", fd, what,
           audit_of(a, audit_owner(a, fd), by, sizeof by));
  finding_line(&(struct finding){kind, fd, NULL, text}, a->reason, sizeof a->reason);
  a->unsafe = 1;
}

static void look(struct audit *a) {
  char room[160];
  int threads = proc_threads_at_rest();
  a->unsafe = threads > 1;
  if (a->unsafe) {
    struct finding f = audit_thread_finding(a, threads, room, sizeof room);
    finding_line(&f, a->reason, sizeof a->reason);
    return;
  }
  fd_each(3, first_refused, a);
}

int audit_check(lua_State *L, struct audit *a, char *reason, size_t n) {
  (void)L;
  if (!a->known) {
    look(a);
    a->known = 1;
  }
  if (a->unsafe && n > 0)
    snprintf(reason, n, "%s", a->reason);
  return a->unsafe;
}
