/* Runs Lua programs that are moved to another address while they run, after every so many
 * instructions, and the old region is unmapped. A program ends without an error, and so
 * does the comparison of its memory with the allocator's, now and then; lua_close leaves
 * no block. Speaks TAP.
 *
 * usage: hop [--every INSTRUCTIONS] [--seed NUMBER] PROGRAM.lua...
 *
 * A program may say in its first line how often it moves: "-- every 50". The module `hop`
 * that it has: userdata(nvalues, nbytes) and light(number) make such values, call(f, ...)
 * and protected(f, ...) are C functions that f may leave for a move, moves() counts. */
#include "arena.h"

#include "image/relocate.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
  struct arena *arena;
  lua_State *L, *program;
  unsigned random;
  long nmoves, nrefused;
} run;

/* ---- the module ---- */

static int new_userdata(lua_State *L) {
  int nvalues = (int)luaL_checkinteger(L, 1);
  size_t nbytes = (size_t)luaL_checkinteger(L, 2);
  memset(lua_newuserdatauv(L, nbytes, nvalues), 0, nbytes);
  return 1;
}
/* In the contents of a userdata lies a pointer to the string that is its first user
 * value. */
static int keep_string(lua_State *L) {
  const char **at = lua_newuserdatauv(L, sizeof *at, 1);
  *at = luaL_checkstring(L, 1);
  lua_pushvalue(L, 1);
  lua_setiuservalue(L, -2, 1);
  return 1;
}
static int kept_string(lua_State *L) {
  lua_pushstring(L, *(const char **)lua_touserdata(L, 1));
  return 1;
}
static int light(lua_State *L) {
  lua_pushlightuserdata(L, (void *)(uintptr_t)luaL_checkinteger(L, 1));
  return 1;
}
static int light_of(lua_State *L) {
  lua_pushlightuserdata(L, (void *)lua_topointer(L, 1));
  return 1;
}
static int is_light_of(lua_State *L) {
  lua_pushboolean(L, lua_touserdata(L, 1) == lua_topointer(L, 2));
  return 1;
}
static int after_call(lua_State *L, int status, lua_KContext context) {
  if (context != 77)
    return luaL_error(L, "the context of a continuation is %I", (LUAI_UACINT)context);
  if (status != LUA_OK && status != LUA_YIELD) {
    lua_pushboolean(L, 0);
    lua_insert(L, -2);
    return 2;
  }
  return lua_gettop(L);
}
static int call(lua_State *L) {
  lua_callk(L, lua_gettop(L) - 1, LUA_MULTRET, 77, after_call);
  return after_call(L, LUA_OK, 77);
}
static int protected(lua_State *L) {
  int status = lua_pcallk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, 77, after_call);
  return after_call(L, status, 77);
}
static int counted(lua_State *L) {
  lua_Integer n = lua_tointeger(L, lua_upvalueindex(1)) + 1;
  lua_pushinteger(L, n);
  lua_pushvalue(L, -1);
  lua_replace(L, lua_upvalueindex(1));
  lua_pushvalue(L, lua_upvalueindex(2));
  return 2;
}
static int counter(lua_State *L) {
  lua_settop(L, 1);
  lua_pushinteger(L, 0);
  lua_insert(L, 1);
  lua_pushcclosure(L, counted, 2);
  return 1;
}
#if LUA_VERSION_NUM >= 505
static void *free_external(void *data, void *p, size_t old, size_t n) {
  (void)data, (void)old, (void)n;
  free(p);
  return NULL;
}
/* A string whose characters are C's: "fixed", or freed by a function. */
static int external(lua_State *L) {
  static const char fixed[] =
      "characters that are C's, and more of them than a short string has";
  char *own = strdup(fixed);
  if (lua_toboolean(L, 1)) {
    free(own);
    lua_pushexternalstring(L, fixed, sizeof fixed - 1, NULL, NULL);
  } else {
    lua_pushexternalstring(L, own, sizeof fixed - 1, free_external, NULL);
  }
  return 1;
}
/* A function whose code stays where it is loaded from: a chunk in binary form. */
static int fixed_code(lua_State *L) {
  static char kept[65536];
  size_t n;
  const char *chunk = luaL_checklstring(L, 1, &n);
  luaL_argcheck(L, n <= sizeof kept, 1, "too long");
  memcpy(kept, chunk, n);
  if (luaL_loadbufferx(L, kept, n, "=fixed", "B") != LUA_OK)
    return lua_error(L);
  return 1;
}
#endif
static int moves(lua_State *L) {
  lua_pushinteger(L, run.nmoves);
  return 1;
}
static void warned(void *data, const char *message, int to_be_continued) {
  lua_State *L = data; /* moves with the state, or this reads what is unmapped */
  if (lua_status(L) != LUA_OK)
    fprintf(stderr, "# %s %d\n", message, to_be_continued);
}
static const luaL_Reg functions[] = {{"userdata", new_userdata},
                                     {"keep", keep_string},
                                     {"kept", kept_string},
                                     {"light", light},
                                     {"light_of", light_of},
                                     {"is_light_of", is_light_of},
                                     {"call", call},
                                     {"protected", protected},
                                     {"counter", counter},
                                     {"moves", moves},
#if LUA_VERSION_NUM >= 505
                                     {"external", external},
                                     {"fixed_code", fixed_code},
#endif
                                     {NULL, NULL}};

/* ---- moving ---- */

static void leave(lua_State *L, lua_Debug *ar) {
  (void)ar;
  if (L != run.program)
    return;
  if (lua_isyieldable(L))
    lua_yield(L, 0);
  else
    run.nrefused++;
}

static const char *hop(void) {
  const char *fault = relocate_obstacle(run.L);
  run.random = run.random * 1103515245 + 12345;
  if (!fault) {
    run.program = arena_move(run.arena, &run.L, run.program,
                             run.random >> 16 & 1 ? ARENA_RECORD : ARENA_WALK);
    if (run.nmoves++ % 16 == 0)
      fault = arena_check(run.arena, run.L);
  }
  return fault;
}

static int prepare(lua_State *L) {
  luaL_openlibs(L);
  luaL_newlib(L, functions);
  lua_setglobal(L, "hop");
  *(void **)lua_getextraspace(L) = L; /* threads get a copy of it */
  lua_setwarnf(L, warned, L);
  return 0;
}

static int every_of(const char *path, int every) {
  FILE *f = fopen(path, "r");
  char line[100] = "";
  int n;
  if (f && fgets(line, sizeof line, f) && sscanf(line, "-- every %d", &n) == 1)
    every = n;
  if (f)
    fclose(f);
  return every;
}

static const char *run_program(const char *path, int every) {
  static char text[1000];
  int nresults, status;
  const char *fault = NULL;
  run.program = lua_newthread(run.L);
  if (luaL_loadfile(run.program, path))
    return lua_tostring(run.program, -1);
  lua_sethook(run.program, leave, LUA_MASKCOUNT, every);
  while ((status = lua_resume(run.program, run.L, 0, &nresults)) == LUA_YIELD && !fault) {
    lua_pop(run.program, nresults);
    fault = hop();
  }
  if (fault)
    return fault;
  if (status != LUA_OK) {
    luaL_traceback(run.L, run.program, lua_tostring(run.program, -1), 0);
    snprintf(text, sizeof text, "%s", lua_tostring(run.L, -1));
    return text;
  }
  if (run.nmoves < 5)
    return "it was hardly moved";
  if (*(void **)lua_getextraspace(run.L) != run.L)
    return "the extra space was not corrected";
  lua_warning(run.L, "end", 0);
  lua_settop(run.program, 0);
  lua_settop(run.L, 0);
  lua_gc(run.L, LUA_GCCOLLECT);
  if ((fault = hop()) || (fault = arena_check(run.arena, run.L)))
    return fault;
  lua_close(run.L);
  return arena_nblocks(run.arena) ? "lua_close has left blocks" : NULL;
}

static int test_program(int number, const char *path, int every, unsigned seed) {
  const char *name = strrchr(path, '/'), *fault = "no state";
  run.arena = arena_new(seed);
  run.random = seed;
  run.nmoves = run.nrefused = 0;
  run.L = arena_state(run.arena);
  lua_pushcfunction(run.L, prepare);
  fault = lua_pcall(run.L, 0, 0, 0) ? lua_tostring(run.L, -1) : NULL;
  if (!fault)
    fault = run_program(path, every_of(path, every));
  printf("%sok %d - %s: %ld moves, %ld places without one\n", fault ? "not " : "", number,
         name ? name + 1 : path, run.nmoves, run.nrefused);
  if (fault)
    fprintf(stderr, "# %s: %s\n", path, fault);
  fflush(stdout);
  arena_free(run.arena);
  return fault != NULL;
}

int main(int argc, char **argv) {
  int every = 40, nfailed = 0, first = 1;
  unsigned seed = 1;
  for (; first + 1 < argc && argv[first][0] == '-'; first += 2) {
    if (!strcmp(argv[first], "--every"))
      every = atoi(argv[first + 1]);
    else if (!strcmp(argv[first], "--seed"))
      seed = (unsigned)atoi(argv[first + 1]);
  }
  if (first >= argc || every < 1) {
    fprintf(stderr, "usage: hop [--every INSTRUCTIONS] [--seed NUMBER] PROGRAM.lua...\n");
    return 2;
  }
  if (sizeof(void *) < 8) {
    printf("1..0 # SKIP images need addresses of 64 bits\n");
    return 0;
  }
  printf("1..%d\n", argc - first);
  for (int i = first; i < argc; i++)
    nfailed += test_program(i - first + 1, argv[i], every, seed);
  return nfailed != 0;
}
