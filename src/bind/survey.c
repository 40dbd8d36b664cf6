/* What `moonfork doctor` asks: what the kernel offers, limits, where the parts of this
 * installation are. Runs in the parent. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bind/bind.h"
#include "os/feature.h"
#include "parent/private.h"
#include "template/modules.h"

#include <dlfcn.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

static int l_features(lua_State *L) { /* features() -> {NAME = boolean} */
  const struct feature *f;
  lua_newtable(L);
  for (size_t i = 0; (f = feature_at(i)); i++) {
    lua_pushboolean(L, f->has());
    lua_setfield(L, -2, f->name);
  }
  return 1;
}

static const struct {
  const char *name;
  int resource;
} resources[] = {
    {"nofile", RLIMIT_NOFILE},   {"as", RLIMIT_AS}, {"core", RLIMIT_CORE},
#ifdef RLIMIT_NPROC
    {"nproc", RLIMIT_NPROC},
#endif
#ifdef RLIMIT_MEMLOCK
    {"memlock", RLIMIT_MEMLOCK},
#endif
};

static void push_limit(lua_State *L, rlim_t limit) {
  lua_pushnumber(L, limit == RLIM_INFINITY ? HUGE_VAL : (lua_Number)limit);
}

static int l_rlimits(lua_State *L) { /* rlimits() -> {NAME = {soft, hard}}; math.huge */
  lua_newtable(L);
  for (size_t i = 0; i < sizeof resources / sizeof *resources; i++) {
    struct rlimit limit;
    if (getrlimit(resources[i].resource, &limit) < 0)
      continue;
    lua_createtable(L, 2, 0);
    push_limit(L, limit.rlim_cur);
    lua_rawseti(L, -2, 1);
    push_limit(L, limit.rlim_max);
    lua_rawseti(L, -2, 2);
    lua_setfield(L, -2, resources[i].name);
  }
  return 1;
}

/* identity() -> {pid=, uid=, system=, sigchld="default"|"ignored"|"handled"} */
static int l_identity(lua_State *L) {
  struct utsname name;
  struct sigaction a;
  lua_newtable(L);
  lua_pushinteger(L, getpid());
  lua_setfield(L, -2, "pid");
  lua_pushinteger(L, geteuid());
  lua_setfield(L, -2, "uid");
  if (uname(&name) == 0) {
    lua_pushfstring(L, "%s %s %s", name.sysname, name.release, name.machine);
    lua_setfield(L, -2, "system");
  }
  if (sigaction(SIGCHLD, NULL, &a) == 0) {
    lua_pushstring(L, a.sa_handler == SIG_IGN || (a.sa_flags & SA_NOCLDWAIT) ? "ignored"
                      : a.sa_handler == SIG_DFL                              ? "default"
                                                                             : "handled");
    lua_setfield(L, -2, "sigchld");
  }
  return 1;
}

/* places() -> the file of moonfork.core (or nil), that of the template program */
static int l_places(lua_State *L) {
  const char *own;
  char program[4096];
  mf_places(&own, program, sizeof program);
  lua_pushstring(L, own);
  lua_pushstring(L, program);
  return 2;
}

/* library(file) -> path, version; or nil, why: of the C library that the dynamic linker
 * finds by that name */
static int l_library(lua_State *L) {
  const char *file = luaL_checkstring(L, 1);
  void *library = dlopen(file, RTLD_LAZY | RTLD_LOCAL);
  const char *(*version)(void) = NULL;
  Dl_info info;
  if (library)
    *(void **)&version = dlsym(library, "mf_version_string");
  if (!version) {
    const char *why = dlerror();
    lua_pushnil(L);
    lua_pushstring(L, why ? why : "it has no mf_version_string");
  } else {
    lua_pushstring(L, dladdr(*(void **)&version, &info) ? info.dli_fname : file);
    lua_pushstring(L, version());
  }
  if (library)
    dlclose(library);
  return 2;
}

/* file(path) -> {id=, path=, directory=, executable=} (id: equal for equal files; path:
 * without symbolic links); or nil, why */
static int l_file(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct stat st;
  char id[64], room[PATH_MAX];
  if (stat(path, &st) < 0)
    return luaL_fileresult(L, 0, path);
  snprintf(id, sizeof id, "%llx:%llx", (unsigned long long)st.st_dev,
           (unsigned long long)st.st_ino);
  lua_createtable(L, 0, 4);
  lua_pushstring(L, realpath(path, room));
  lua_setfield(L, -2, "path");
  lua_pushstring(L, id);
  lua_setfield(L, -2, "id");
  lua_pushboolean(L, S_ISDIR(st.st_mode));
  lua_setfield(L, -2, "directory");
  lua_pushboolean(L, access(path, X_OK) == 0);
  lua_setfield(L, -2, "executable");
  return 1;
}

const luaL_Reg bind_survey_functions[] = {
    {"features", l_features},
    {"rlimits", l_rlimits},
    {"identity", l_identity},
    {"places", l_places},
    {"library", l_library},
    {"file", l_file},
    {"finding_kinds", template_push_finding_kinds},
    {NULL, NULL},
};
