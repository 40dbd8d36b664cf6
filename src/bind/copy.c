/* template() and early: a forked copy of the running interpreter, as it stands, becomes a
 * template. The fork itself is mf_fork_self (src/parent/api/fork_self.c).
 *
 * In the copy, in this order:
 *  1. dispositions and mask to default, so that no handler of the program runs in it
 *  2. the hook cleared: a debugger's or a time limit's would fire in the template
 *  3. the private loop's descriptors closed (an epoll set shared with the parent), then
 *     the library's: a control socket kept here would hide the parent's end
 *  4. Lua's side told, so that no scheduler of the parent is asked to wait
 *  5. served, above the caller's frames, for ever
 *
 * Runs in the parent, from fork() on also in the new template. */
#include "bind/lua_options.h"
#include "bind/lua_process.h"
#include "bind/lua_reactor.h"
#include "os/fd.h"
#include "os/proc.h"
#include "template/serve/entry.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void child_serve(int control_fd, int leash_fd, void *data) {
  lua_State *L = data;
  struct box *box = box_get(L);
  lua_sethook(L, NULL, 0, 0);
  if (box->reactor) {
    reactor_abandon(box->reactor);
    box->reactor = NULL;
  }
  box->host = NULL;
  reactor_forked();
  lua_reactor_tell_copied(L);
  struct template_entry entry = {control_fd, leash_fd, NULL, L, 0};
  template_enter(&entry);
}

/* Who has threads has locks that may be held while it is copied, for ever in the copy. */
static int refuse_threads(lua_State *L) {
  int n = proc_threads_at_rest();
  if (n <= 1)
    return 0;
  lua_pushnil(L);
  lua_pushfstring(L, "the program has %d threads and can't be forked", n);
  bind_error_push(L, "FORK_FAILED", lua_tostring(L, -1), NULL, MF_STARTED_NO, NULL);
  lua_remove(L, -2);
  return 2;
}

struct event_search {
  int own, found;
};

static void find_event_fd(int fd, void *data) {
  struct event_search *search = data;
  char path[64], target[64];
  snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
  ssize_t n = readlink(path, target, sizeof(target) - 1);
  target[n > 0 ? n : 0] = '\0';
  if (fd != search->own && (strcmp(target, "anon_inode:[eventpoll]") == 0 ||
                            strcmp(target, "anon_inode:[io_uring]") == 0))
    search->found = fd;
}

/* An event loop is shared by the program and its copy: what one does to it the other
 * sees. */
static int refuse_loops(lua_State *L) {
  struct reactor *r = reactor_peek(L);
  struct event_search search = {r ? uv_backend_fd(&r->loop) : -1, -1};
  fd_each(0, find_event_fd, &search);
  if (search.found < 0)
    return 0;
  lua_pushnil(L);
  lua_pushfstring(L, "descriptor %d is an event loop (epoll or io_uring)", search.found);
  bind_error_push(L, "FORK_FAILED", lua_tostring(L, -1), NULL, MF_STARTED_NO, NULL);
  lua_remove(L, -2);
  return 2;
}

static int fork_refused(lua_State *L, int rc) {
  lua_pushnil(L);
  bind_error_push(L, "FORK_FAILED", mf_strerror(rc), NULL, MF_STARTED_NO, NULL);
  return 2;
}

/* template(cell, options) -> raw; or nil, error. The copy's `box` is the parent's:
 * whatever was pushed here stays in the copy, which is why the raw process comes after
 * the fork. */
static int l_template(lua_State *L) {
  mf_options options;
  mf_process *process = NULL;
  int fd, pid;
  struct reactor *r = reactor_get(L);
  if (!r)
    return 2;
  bind_options_read(L, 2, r, &options);
  if (refuse_threads(L))
    return 2;
  struct proc *p = bound_push(L, r, 1);
  if (!p)
    return 2;
  int rc = mf_fork_self(child_serve, L, &fd, &pid);
  if (rc < 0) {
    bound_fill(L, p, rc, NULL);
    return fork_refused(L, rc);
  }
  rc = mf_adopt_fd(&options, fd, pid, 1, &process);
  return bound_fill(L, p, rc, process);
}

static int l_early(lua_State *L) { /* early() -> true; or nil, error */
  int fd, pid;
  if (refuse_threads(L) || refuse_loops(L))
    return 2;
  int rc = mf_fork_self(child_serve, L, &fd, &pid);
  if (rc < 0)
    return fork_refused(L, rc);
  return bind_result_push(L, mf_adopt_early(fd, pid));
}

const luaL_Reg bind_copy_functions[] = {
    {"template", l_template}, {"early", l_early}, {NULL, NULL}};
