#include "pseudo/driver.h"

#include "image/objects.h"
#include "pseudo/duplicate.h"
#include "pseudo/family.h"
#include "pseudo/resuming.h"
#include "pseudo/streams.h"
#include "pseudo/surroundings.h"

#include "os/interrupt.h"
#include "os/proc.h"
#include "template/heap/heap.h"

#include <errno.h>
#include <lauxlib.h>
#include <lualib.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Address space of each: a thousand of them have room. */
#define RESERVE ((size_t)4 << 30)

static const char *interpreter; /* its name in messages */
static const char path_key;     /* in the registry: pseudo.lua's function path(object) */

/* ---- messages ---- */

static void say(const char *text) {
  fprintf(stderr, "%s: %s\n", interpreter, text);
  fflush(stderr);
}

static int panic(lua_State *L) {
  say(lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "error outside of Lua code");
  return 0; /* Lua aborts */
}

/* The function warn, as the interpreter has it: off at first, "@on" and "@off". */
static void warn(void *data, const char *message, int to_be_continued) {
  struct family_member *m = family_self;
  if (!m->warning && !to_be_continued && *message == '@') {
    if (!strcmp(message, "@on"))
      m->warns = true;
    else if (!strcmp(message, "@off"))
      m->warns = false;
    return;
  }
  if (m->warns)
    fprintf(stderr, "%s%s%s", m->warning ? "" : "Lua warning: ", message,
            to_be_continued ? "" : "\n");
  m->warning = to_be_continued;
}

/* The error on top of the program's stack with a traceback, as lua.c prints it. */
static int describe(lua_State *L) {
  lua_State *program = lua_touserdata(L, 1);
  lua_settop(L, 0);
  const char *text = lua_tostring(program, -1);
  if (!text) {
    lua_xmove(program, L, 1); /* and back, as there may be no room for one more */
    lua_pushvalue(L, 1);
    lua_xmove(L, program, 1);
    if (luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING)
      return 1;
    text = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
  }
  luaL_traceback(L, program, text, 0);
  return 1;
}

/* What is to be closed, which can be killed like all else. */
static void close_variables(struct family_member *m) {
  m->closes = true;
  m->running = m->program;
  lua_resetthread(m->program);
  m->running = m->L;
}

static void report(struct family_member *m) {
  lua_pushcfunction(m->L, describe);
  lua_pushlightuserdata(m->L, m->program);
  bool described = lua_pcall(m->L, 1, 1, 0) == LUA_OK;
  close_variables(m);
  const char *text = lua_tostring(m->L, -1);
  say(described && text ? text : "error in error handling");
  lua_settop(m->L, 0);
}

/* ---- the end ---- */

/* What only this thread has open, so that who waits at the other end of a pipe sees its
 * end before the process is waited for. */
static void close_descriptors(void) {
#ifdef SYS_close_range
  syscall(SYS_close_range, 3U, ~0U, 0U);
#endif
}

/* Finalisers run: they may use files, resume coroutines, and end the process. Lua runs no
 * hook in them, so a signal waits until they have returned. */
static void close_state(struct family_member *m) {
  close_variables(m); /* lua_close looks at m->L only */
  m->running = NULL;
  if (atomic_load(&m->ending))
    streams_end(m->L);
  else
    lua_close(m->L);
}

static void finish(struct family_member *m, int code) {
  int ending = atomic_load(&m->ending);
  m->running = NULL;
  streams_flush(m->L);
  if (ending == ENDING_EXIT)
    code = m->exit_code;
  if (!ending || (ending == ENDING_EXIT && m->close_state)) {
    if (ending == ENDING_EXIT)
      atomic_compare_exchange_strong(&m->ending, &ending, 0);
    close_state(m);
    ending = atomic_load(&m->ending);
    if (ending == ENDING_EXIT)
      code = m->exit_code;
  } else {
    objects_end_all(m->L); /* its process goes on, and would keep that memory */
    streams_end(m->L);
  }
  fflush(stdout);
  fflush(stderr);
  heap_free(m->heap);
  surroundings_free(m->surroundings);
  m->heap = NULL;
  m->L = m->program = NULL;
  m->surroundings = NULL;
  close_descriptors();
  family_end(m, code, ending > 0 ? ending : 0);
}

/* ---- fork ---- */

struct birth {
  struct family_member *child;
  const struct userdata_list *userdata; /* of the original */
  size_t nth;                           /* whose __clone is called */
  sem_t done;
  char why[sizeof((struct family_member *)0)->why_not]; /* "": it lives */
};

/* In the copy, before it goes on: other random numbers, and metamethods __clone. */
static int run_hooks(lua_State *L) { /* birth, objects | */
  struct birth *b = lua_touserdata(L, 1);
  for (; b->nth < b->userdata->nhooks; b->nth++)
    userdata_call_hook(L, 2, b->nth);
  return 0;
}

static int prepare_hooks(lua_State *L) { /* birth | */
  const struct birth *b = lua_touserdata(L, 1);
  lua_rawgetp(L, LUA_REGISTRYINDEX, &path_key);
  lua_getfield(L, -1, "born");
  uint64_t random[2];
  proc_random(random, sizeof random);
  lua_pushinteger(L, (lua_Integer)random[0]);
  lua_pushinteger(L, (lua_Integer)random[1]);
  lua_call(L, 2, 0);
  userdata_push_hooks(L, (char *)b->child->heap, b->userdata->hooks, b->userdata->nhooks);
  return 1;
}

/* "the userdata of type cjson (package.loaded.cjson.new's upvalue 1)": what is on top of
 * L, which is not kept. May be cut. */
static void say_path(lua_State *L, char *text, size_t size) {
  snprintf(text, size, "a userdata");
  lua_rawgetp(L, LUA_REGISTRYINDEX, &path_key);
  lua_getfield(L, -1, "path");
  lua_remove(L, -2);
  lua_insert(L, -2);
  if (lua_pcall(L, 1, 1, 0) == LUA_OK && lua_type(L, -1) == LUA_TSTRING)
    snprintf(text, size, "%s", lua_tostring(L, -1));
  lua_pop(L, 1);
}

/* Stack: objects, error | */
static void say_failed_hook(struct birth *b) {
  lua_State *L = b->child->L;
  char path[240] = "a userdata";
  int ended =
      atomic_exchange(&b->child->ending, 0) != 0; /* else its path can't be told */
  const char *text = luaL_tolstring(L, -1, NULL);
  if (ended)
    text = "it has ended the copy";
  if (lua_rawgeti(L, 1, (lua_Integer)b->nth + 1) == LUA_TUSERDATA) {
    lua_pushnil(L); /* so that the path does not lead through our table */
    lua_replace(L, 1);
    say_path(L, path, sizeof path);
  }
  snprintf(b->why, sizeof b->why, "__clone of %s: %s", path, text);
}

static int call_clone(struct birth *b) {
  lua_State *L = b->child->L;
  lua_pushcfunction(L, prepare_hooks);
  lua_pushlightuserdata(L, b);
  if (lua_pcall(L, 1, 1, 0)) {
    snprintf(b->why, sizeof b->why, "%s", lua_tostring(L, -1));
    return -ENOMEM;
  }
  if (b->userdata->nhooks == 0)
    return 0;
  lua_pushcfunction(L, run_hooks);
  lua_pushlightuserdata(L, b);
  lua_pushvalue(L, 1);
  if (!lua_pcall(L, 2, 0, 0))
    return 0;
  say_failed_hook(b);
  return -EINVAL;
}

static int run(struct family_member *m, int narguments);

static int prepare_copy(struct birth *b) {
  struct family_member *c = b->child;
  char *why = b->why;
  size_t size = sizeof b->why;
  int r = surroundings_separate();
  if (r < 0)
    snprintf(why, size, "this system gives a thread no descriptors of its own: %s",
             strerror(-r));
  else if ((r = streams_renew(c->L)) < 0)
    snprintf(why, size, "a file can't be opened for the copy: %s", strerror(-r));
  if (r < 0)
    return r;
  c->running = c->L;
  /* The finaliser of what waits for it would free the original's, before its __clone. */
  int collects = lua_gc(c->L, LUA_GCISRUNNING);
  if (collects)
    lua_gc(c->L, LUA_GCSTOP);
  r = call_clone(b);
  lua_settop(c->L, 0);
  if (collects)
    lua_gc(c->L, LUA_GCRESTART);
  return r;
}

static void *copy_main(void *data) {
  struct birth *b = data;
  struct family_member *c = b->child;
  family_enter(c);
  if (prepare_copy(b) < 0) {
    streams_end(c->L);
    sem_post(&b->done);
    return NULL;
  }
  sem_post(&b->done); /* b is gone from here on */
  finish(c, run(c, 0));
  return NULL;
}

/* Starts it, and waits until it has what is its own: descriptors that the caller closes
 * after the fork stay open there. */
static int start_copy(struct family_member *c, const struct userdata_list *userdata,
                      char *why, size_t size) {
  struct birth b = {.child = c, .userdata = userdata};
  pthread_t thread;
  sem_init(&b.done, 0, 0);
  int error = pthread_create(&thread, NULL, copy_main, &b);
  if (error) {
    snprintf(why, size, "no thread: %s", strerror(error));
  } else {
    while (sem_wait(&b.done) < 0 && errno == EINTR)
      ;
    if (*b.why) {
      snprintf(why, size, "%s", b.why);
      error = EINVAL;
      pthread_join(thread, NULL);
    } else {
      pthread_detach(thread);
    }
  }
  sem_destroy(&b.done);
  return -error;
}

struct look {
  struct family_member *m;
  struct userdata_list *userdata;
  bool names; /* what is refused */
  int r;
};

static int look(lua_State *L) { /* look | */
  struct look *job = lua_touserdata(L, 1);
  struct family_member *m = job->m;
  struct userdata_refusal refusal;
  char path[240];
  job->r = duplicate_look(m, job->userdata, &refusal);
  if (job->r != -EPERM || !job->names)
    return 0;
  objects_push(L, refusal.object);
  say_path(L, path, sizeof path);
  snprintf(m->why_not, sizeof m->why_not, "%s can't be in two interpreters: %s", path,
           refusal.why);
  return 0;
}

static int look_once(struct family_member *m, struct userdata_list *userdata,
                     bool names) {
  struct look job = {m, userdata, names, 0};
  lua_settop(m->L, 0);
  lua_pushcfunction(m->L, look);
  lua_pushlightuserdata(m->L, &job);
  if (lua_pcall(m->L, 1, 0, 0))
    job.r = -ENOMEM;
  if (job.r == -ENOMEM)
    snprintf(m->why_not, sizeof m->why_not, "out of memory");
  lua_settop(m->L, 0);
  return job.r;
}

/* Whether all userdata may be in two interpreters that is no garbage; else says what. */
static int look_at_userdata(struct family_member *m, struct userdata_list *userdata) {
  m->running = m->L;
  int r = look_once(m, userdata, false);
  if (r != -EPERM)
    return r;
  for (int i = 0; i < 2; i++) /* first it is finalised, then freed */
    lua_gc(m->L, LUA_GCCOLLECT);
  return look_once(m, userdata, true);
}

static long copy(struct family_member *m, const struct userdata_list *userdata) {
  struct family_member *c;
  streams_flush(m->L);
  if (!(c = family_add(m->id))) {
    snprintf(m->why_not, sizeof m->why_not, "out of memory");
    return -1;
  }
  long id = c->id;
  c->warns = m->warns;
  c->surroundings = surroundings_new(m->surroundings);
  if (!c->surroundings)
    snprintf(m->why_not, sizeof m->why_not, "out of memory");
  else if (duplicate_make(c, m, m->why_not, sizeof m->why_not) == 0) {
    if (start_copy(c, userdata, m->why_not, sizeof m->why_not) == 0)
      return id;
    heap_free(c->heap);
  }
  surroundings_free(c->surroundings);
  family_withdraw(c);
  return -1;
}

static long fork_now(struct family_member *m) {
  struct userdata_list userdata;
  if (look_at_userdata(m, &userdata) < 0)
    return -1;
  long id = copy(m, &userdata);
  userdata_free(&userdata);
  return id;
}

/* ---- running ---- */

/* In a wait of one of the library's modules, which a signal has interrupted: nothing there
 * has to be put back. */
static int leave_wait(lua_State *L) {
  struct family_member *m = family_self;
  (void)L;
  if (m && m->can_leave && atomic_load(&m->ending) > 0)
    longjmp(m->left, 1);
  return 0;
}

static int resume(struct family_member *m, int narguments) {
  int nresults, status = LUA_ERRRUN;
  if (_setjmp(m->left) == 0) {
    m->can_leave = true;
    status = lua_resume(m->program, m->L, narguments, &nresults);
  }
  m->can_leave = false;
  return status;
}

/* From where the program stands to its end; its exit code. */
static int run(struct family_member *m, int narguments) {
  int status = LUA_OK;
  for (;; narguments = 0) {
    m->running = m->program; /* a signal that comes from here on has its hook there */
    if (atomic_load(&m->ending))
      break;
    status = resume(m, narguments);
    if (status != LUA_YIELD || atomic_load(&m->ending))
      break;
    if (m->want != WANT_FORK) {
      say("attempt to yield from outside a coroutine");
      return EXIT_FAILURE;
    }
    m->want = WANT_NOTHING;
    m->result = fork_now(m);
  }
  if (atomic_load(&m->ending) || status == LUA_OK)
    return EXIT_SUCCESS;
  m->running = m->L;
  report(m);
  return EXIT_FAILURE;
}

/* ---- the first one ---- */

static void copy_arguments(lua_State *L, lua_State *from) {
  lua_newtable(L);
  lua_pushnil(from);
  while (lua_next(from, 1)) {
    if (lua_isinteger(from, -2) && lua_type(from, -1) == LUA_TSTRING) {
      size_t n;
      const char *s = lua_tolstring(from, -1, &n);
      lua_pushlstring(L, s, n);
      lua_rawseti(L, -2, lua_tointeger(from, -2));
    }
    lua_pop(from, 1);
  }
  lua_setglobal(L, "arg");
}

static int push_arguments(lua_State *L) {
  lua_getglobal(L, "arg");
  int n = (int)luaL_len(L, -1);
  luaL_checkstack(L, n + 3, "too many arguments to script");
  for (int i = 1; i <= n; i++)
    lua_rawgeti(L, -i, i);
  lua_remove(L, -n - 1);
  return n;
}

static int set_up(lua_State *L) {
  const struct driver_program *p = lua_touserdata(L, 1);
  luaL_openlibs(L);
  lua_pushcfunction(L, leave_wait);
  lua_setfield(L, LUA_REGISTRYINDEX, INTERRUPT_KEY);
  lua_getfield(L, LUA_REGISTRYINDEX, "_CLIBS");
  lua_pushnil(L);
  lua_setmetatable(L, -2); /* modules stay loaded: other copies use them */
  lua_settop(L, 0);
  lua_getglobal(L, LUA_IOLIBNAME);
  lua_getglobal(L, LUA_OSLIBNAME);
  streams_open(L);
  lua_settop(L, 0);
  lua_getglobal(L, LUA_COLIBNAME);
  resuming_open(L);
  lua_getglobal(L, LUA_LOADLIBNAME);
  lua_pushstring(L, lua_tostring(p->from, 2));
  lua_setfield(L, -2, "path");
  lua_pushstring(L, lua_tostring(p->from, 3));
  lua_setfield(L, -2, "cpath");
  copy_arguments(L, p->from);
  luaL_requiref(L, "moonfork.pseudo_core", p->core, 0);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "moonfork.pseudo");
  lua_call(L, 1, 1); /* gives the table, and has left path() and born() in the core's */
  lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  lua_getfield(L, -1, "moonfork.pseudo_core");
  lua_rawsetp(L, LUA_REGISTRYINDEX, &path_key);
  lua_settop(L, 0);
  lua_gc(L, LUA_GCGEN, 0, 0);
  return 0;
}

static int load_script(lua_State *L) {
  const struct driver_program *p = lua_touserdata(L, 1);
  lua_State *program = lua_newthread(L);
  luaL_ref(L, LUA_REGISTRYINDEX);
  family_self->program = program;
  if (luaL_loadfile(L, p->script) != LUA_OK)
    return lua_error(L);
  int n = push_arguments(L);
  lua_xmove(L, program, n + 1);
  lua_pushinteger(L, n);
  return 1;
}

static struct family_member *first_member(char *text, size_t size) {
  struct family_member *m = family_add(0);
  if (m && (m->surroundings = surroundings_new(NULL)) && (m->heap = heap_new(RESERVE)))
    m->L = lua_newstate(heap_alloc, m->heap);
  if (m && m->L)
    return m;
  snprintf(text, size, "there is no memory for an interpreter of its own");
  return NULL;
}

/* At Ctrl-C the handler of lua5.4 sets a hook in the interpreter that was started, where
 * no Lua code runs any more. By the default the signal ends all of them, as others do. */
static void let_interrupts_end(void) {
  struct sigaction action;
  if (sigaction(SIGINT, NULL, &action) == 0 && action.sa_handler != SIG_IGN)
    signal(SIGINT, SIG_DFL);
}

int driver_run(const struct driver_program *program, char *text, size_t size) {
  struct family_member *m = first_member(text, size);
  if (!m)
    return -1;
  interpreter = program->name;
  let_interrupts_end();
  family_enter(m);
  family_watch(resuming_hook);
  m->running = m->L;
  lua_atpanic(m->L, panic);
  lua_setwarnf(m->L, warn, NULL);
  lua_pushcfunction(m->L, set_up);
  lua_pushlightuserdata(m->L, (void *)(uintptr_t)program);
  if (lua_pcall(m->L, 1, 0, 0)) {
    snprintf(text, size, "%s", lua_tostring(m->L, -1));
    return -1;
  }
  lua_pushcfunction(m->L, load_script);
  lua_pushlightuserdata(m->L, (void *)(uintptr_t)program);
  int code = EXIT_FAILURE;
  if (lua_pcall(m->L, 1, 1, 0)) {
    say(lua_tostring(m->L, -1));
    lua_settop(m->L, 0);
  } else {
    int n = (int)lua_tointeger(m->L, -1);
    lua_settop(m->L, 0);
    code = run(m, n);
  }
  finish(m, code);
  family_wait_for_all();
  return m->signal ? 128 + m->signal : m->code & 255;
}
