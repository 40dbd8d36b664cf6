/* fork.trace, and the news that a trace has ended by itself. Runs in the parent. */
#include "bind/lua_trace.h"

#include "bind/completion.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *reason(int code) {
  switch (code) {
  case -EWOULDBLOCK:
    return "another program writes its trace there; %p in a path stands for the number "
           "of the process";
  case -EINVAL:
    return "it is no regular file";
  case MF_EUNSUPPORTED:
    return "traces are of whole processes, and this is a thread with descriptors of its "
           "own (a clone in a thread, or a pseudo-process)";
  default:
    return mf_strerror(code);
  }
}

static const char *error_name(int code) {
  return code == -EWOULDBLOCK ? "EINVAL" : bind_error_name(code);
}

/* trace(path) -> true: a trace is written there from now on; nil: none any more. Or nil,
 * error */
static int l_trace(lua_State *L) {
  const char *path = luaL_optstring(L, 1, NULL);
  struct reactor *r = reactor_peek(L);
  int rc = mf_trace(path);
  if (rc == 0 && r)
    mf_trace_loop(&r->loop);
  if (rc == 0)
    return bind_result_push(L, 0);
  lua_pushnil(L);
  lua_pushfstring(L, "the trace %s can't be written: %s", path ? path : "file",
                  reason(rc));
  bind_error_push(L, error_name(rc), lua_tostring(L, -1), NULL, MF_STARTED_NO, NULL);
  lua_remove(L, -2);
  return 2;
}

/* -> "trace", quiet, error: quiet: the program did not ask for it, the environment did */
static int push_news(lua_State *L, struct completion *c) {
  completion_push(L, c, "trace");
  lua_pushboolean(L, c->started);
  lua_replace(L, -3);
  completion_end(c);
  return 3;
}

static const struct completion_ops news_ops = {push_news, completion_end};

void trace_tell(struct reactor *r) {
  struct trace_failure f;
  struct completion *c;
  char *text = NULL;
  if (!mf_trace_take_failure(&f))
    return;
  c = malloc(sizeof *c);
  if (c) {
    if (asprintf(&text, "the trace %s can't be written, and has ended: %s",
                 f.path ? f.path : "file", reason(f.code)) < 0)
      text = NULL;
    completion_init(c, r, &news_ops);
    c->trash.block = c;
    c->code = f.code == -EWOULDBLOCK ? MF_EINVAL : f.code;
    c->started = f.wanted;
    c->message = text;
    completion_done(c);
  }
  free(f.path);
}

const luaL_Reg bind_trace_functions[] = {{"trace", l_trace}, {NULL, NULL}};
