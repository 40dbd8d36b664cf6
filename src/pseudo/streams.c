#include "pseudo/streams.h"

#include "image/layout54.h"
#include "pseudo/family.h"
#include "pseudo/surroundings.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lualib.h>
#include <pthread.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <stdio_ext.h>
#endif

static lua_CFunction close_file; /* what io.open's files have */

struct child_stream { /* begins as every file of Lua does */
  luaL_Stream stream;
  pid_t pid;
};

/* ---- all files of a state ---- */

static int is_standard(FILE *f) {
  return f == stdin || f == stdout || f == stderr;
}

/* The first error of f ends it. Nothing is allocated: the lists stay. */
static int each_file(lua_State *L, int (*f)(luaL_Stream *s)) {
  struct l54_global *g = l54_thread(L)->global;
  struct l54_object *lists[] = {g->with_finaliser, g->to_finalise};
  luaL_getmetatable(L, LUA_FILEHANDLE);
  const void *metatable = lua_topointer(L, -1);
  int r = 0;
  lua_pop(L, 1);
  for (size_t i = 0; i < 2; i++)
    for (struct l54_object *o = lists[i]; o && r == 0; o = o->next) {
      struct l54_userdata *u = (struct l54_userdata *)o;
      if (o->type != L54_USERDATA || u->metatable != metatable)
        continue;
      luaL_Stream *s = (luaL_Stream *)(void *)((char *)u + l54_userdata_head(u));
      if (s->closef && s->f && !is_standard(s->f))
        r = f(s);
    }
  return r;
}

/* Of a file that others have, too: fclose alone leaves the position of one that is read
 * where it was read ahead. */
static int close_shared(lua_State *L) {
  FILE *f = ((luaL_Stream *)luaL_checkudata(L, 1, LUA_FILEHANDLE))->f;
  int error = fflush(f) ? errno : 0;
  if (fclose(f) && !error)
    error = errno;
  errno = error;
  return luaL_fileresult(L, !error, NULL);
}

static int flush(luaL_Stream *s) {
  fflush(s->f); /* of a file that is read, too: it goes back to where the program is */
  if (s->closef == close_file)
    s->closef = close_shared;
  return 0;
}

/* Somebody else may be waiting in it. */
static void flush_shared(FILE *f) {
  if (ftrylockfile(f))
    return;
  fflush(f);
  funlockfile(f);
}

void streams_flush(lua_State *L) {
  each_file(L, flush);
  flush_shared(stdout);
  flush_shared(stderr);
}

static const char *mode_of(int flags) {
  int append = flags & O_APPEND;
  switch (flags & O_ACCMODE) {
  case O_RDONLY:
    return "r";
  case O_WRONLY:
    return append ? "a" : "w";
  }
  return append ? "a+" : "r+";
}

static void same_buffering(FILE *to, FILE *from) {
#ifdef __GLIBC__
  if (__flbf(from))
    setvbuf(to, NULL, _IOLBF, BUFSIZ);
  else if (__fbufsize(from) == 1) /* its own character: there is no buffer */
    setvbuf(to, NULL, _IONBF, 0);
#endif
}

static int renew(luaL_Stream *s) {
  int fd = fileno(s->f), flags = fcntl(fd, F_GETFL);
  FILE *f = flags < 0 ? NULL : fdopen(fd, mode_of(flags));
  if (!f && errno == EBADF) { /* closed by its number */
    s->closef = NULL;
    return 0;
  }
  if (!f)
    return -errno;
  same_buffering(f, s->f);
  s->f = f;
  s->closef = close_shared; /* of what popen has started, the original waits for */
  return 0;
}

int streams_renew(lua_State *L) {
  return each_file(L, renew);
}

static int end(luaL_Stream *s) {
  fflush(s->f);
  if (s->closef == close_file || s->closef == close_shared)
    fclose(s->f);
  s->closef = NULL;
  return 0;
}

void streams_end(lua_State *L) {
  each_file(L, end);
}

/* ---- new ones ---- */

static luaL_Stream *new_stream(lua_State *L, size_t size) {
  luaL_Stream *s = lua_newuserdatauv(L, size, 0);
  s->f = NULL;
  s->closef = NULL; /* closed until it is open */
  luaL_setmetatable(L, LUA_FILEHANDLE);
  return s;
}

int streams_pipe(lua_State *L) {
  luaL_Stream *r = new_stream(L, sizeof *r), *w = new_stream(L, sizeof *w);
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) < 0)
    return luaL_fileresult(L, 0, NULL);
  r->f = fdopen(fds[0], "r");
  w->f = fdopen(fds[1], "w");
  if (r->f && w->f) {
    r->closef = w->closef = close_file;
    return 2;
  }
  int error = errno;
  (r->f ? fclose(r->f) : close(fds[0]));
  (w->f ? fclose(w->f) : close(fds[1]));
  errno = error;
  return luaL_fileresult(L, 0, NULL);
}

static void *reap(void *pid) {
  int status;
  while (waitpid((pid_t)(intptr_t)pid, &status, 0) < 0 && errno == EINTR)
    ;
  return NULL;
}

/* Who waited for it is to end: it goes on by itself, as that of a process would. */
static void leave_alone(pid_t pid) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, reap, (void *)(intptr_t)pid) == 0)
    pthread_detach(thread);
}

static int wait_for(pid_t pid) {
  int status;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR)
      return -1;
    if (atomic_load(&family_self->ending)) {
      leave_alone(pid);
      errno = EINTR;
      return -1;
    }
  }
  return status;
}

/* /bin/sh -c command, with the caller's environment; fd as its `as`, unless it is -1. */
static int spawn(const char *command, int fd, int as, pid_t *ret_pid) {
  char *arguments[] = {(char[]){"sh"}, (char[]){"-c"}, (char *)(uintptr_t)command, NULL};
  posix_spawn_file_actions_t actions;
  int error = posix_spawn_file_actions_init(&actions);
  if (error)
    return error;
  if (fd >= 0)
    error = posix_spawn_file_actions_adddup2(&actions, fd, as);
  if (!error)
    error = posix_spawn(ret_pid, "/bin/sh", &actions, NULL, arguments,
                        surroundings_environ(family_self->surroundings));
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

static int execute(lua_State *L) {
  const char *command = luaL_optstring(L, 1, NULL);
  pid_t pid;
  if (!command) {
    lua_pushboolean(L, access("/bin/sh", X_OK) == 0);
    return 1;
  }
  streams_flush(L);
  if ((errno = spawn(command, -1, -1, &pid)))
    return luaL_fileresult(L, 0, NULL);
  int status = wait_for(pid);
  errno = status < 0 ? errno : 0; /* luaL_execresult believes it */
  return luaL_execresult(L, status);
}

static int close_child(lua_State *L) {
  struct child_stream *s = luaL_checkudata(L, 1, LUA_FILEHANDLE);
  fclose(s->stream.f);
  int status = wait_for(s->pid);
  errno = status < 0 ? errno : 0;
  return luaL_execresult(L, status);
}

static int popen_by_spawn(lua_State *L) {
  const char *command = luaL_checkstring(L, 1), *mode = luaL_optstring(L, 2, "r");
  luaL_argcheck(L, !strcmp(mode, "r") || !strcmp(mode, "w"), 2, "invalid mode");
  int reads = *mode == 'r', fds[2];
  struct child_stream *s = (struct child_stream *)new_stream(L, sizeof *s);
  streams_flush(L);
  if (pipe2(fds, O_CLOEXEC) < 0)
    return luaL_fileresult(L, 0, command);
  s->stream.f = fdopen(fds[!reads], mode);
  int error = s->stream.f ? spawn(command, fds[reads], reads, &s->pid) : errno;
  close(fds[reads]);
  if (!error) {
    s->stream.closef = close_child;
    return 1;
  }
  (s->stream.f ? fclose(s->stream.f) : close(fds[!reads]));
  errno = error;
  return luaL_fileresult(L, 0, command);
}

void streams_open(lua_State *L) {
  lua_getfield(L, 1, "open");
  lua_pushliteral(L, "/dev/null");
  lua_call(L, 1, 1);
  luaL_Stream *s = luaL_checkudata(L, -1, LUA_FILEHANDLE);
  close_file = s->closef;
  lua_getfield(L, -1, "close");
  lua_insert(L, -2);
  lua_call(L, 1, 0);
  lua_pushcfunction(L, popen_by_spawn);
  lua_setfield(L, 1, "popen");
  lua_pushcfunction(L, execute);
  lua_setfield(L, 2, "execute");
}
