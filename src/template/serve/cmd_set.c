/* CMD_SET: a value that the parent has packed becomes a global, or a field of something.
 * Its clones have it by being forked. Runs in templates and clones before run. */
#include "codec/codec.h"
#include "template/lua/script.h"
#include "template/serve/commands.h"
#include "template/server/options_parse.h"
#include <errno.h>
#include <lauxlib.h>
#include <string.h>

struct set_job {
  struct set set;
  struct fdset *fds;
  int code; /* of a value that can't be read, or 0 */
};

/* Leaves the value. */
static void read_value(lua_State *L, struct set_job *job) {
  static const struct codec_limits how = {.what = "value"};
  const struct set *set = &job->set;
  struct codec_error e;
  int n = codec_unpack(L, set->message.p, set->message.n, job->fds->fd,
                       (size_t)job->fds->n, &how, &e);
  if (n == 1)
    return;
  job->code = n < 0 ? e.code : -EPROTO;
  lua_pushlstring(L, set->name.p, set->name.n);
  luaL_error(L, "the value for '%s' can't be read: %s", lua_tostring(L, -1),
             n < 0 ? e.text : "it is not one value");
}

/* Replaces the value at the top by its field of that name: [part, end) of the whole. */
static void enter(lua_State *L, const char *part, const char *end, struct text whole) {
  lua_pushlstring(L, part, (size_t)(end - part));
  lua_gettable(L, -2);
  lua_remove(L, -2);
  if (lua_istable(L, -1))
    return;
  if (luaL_getmetafield(L, -1, "__newindex") != LUA_TNIL) {
    lua_pop(L, 1);
    return;
  }
  lua_pushlstring(L, whole.p, whole.n);
  lua_pushlstring(L, whole.p, (size_t)(end - whole.p));
  luaL_error(L, "can't set '%s': '%s' is a %s value", lua_tostring(L, -2),
             lua_tostring(L, -1), luaL_typename(L, -3));
}

static int l_set(lua_State *L) {
  struct set_job *job = lua_touserdata(L, 1);
  struct text name = job->set.name;
  const char *part = name.p, *end = name.p + name.n, *dot;
  lua_settop(L, 0);
  read_value(L, job);
  lua_pushglobaltable(L);
  while ((dot = memchr(part, '.', (size_t)(end - part)))) {
    enter(L, part, dot, name);
    part = dot + 1;
  }
  lua_pushlstring(L, part, (size_t)(end - part));
  lua_pushvalue(L, 1);
  lua_settable(L, -3);
  return 0;
}

static int failure_of(int code) {
  return code == -E2BIG ? FAILURE_LIMIT : code == -ENOMEM ? FAILURE_NOMEM : FAILURE_INVAL;
}

int cmd_set(struct server *s, struct command *c) {
  struct set_job job = {.fds = c->fds};
  if (options_parse_set(&job.set, c->body, c->length) < 0)
    return server_malformed(s, "malformed set command");
  server_enter_user(s); /* metamethods, and the functions of classes */
  audit_before(&s->audit, s->L, "set", 0);
  int r = script_protect(s, l_set, &job, 0, FAILURE_REMOTE, PHASE_SET);
  audit_after(&s->audit, s->L, "set", 0);
  server_leave_user(s);
  if (r == 0)
    return 0;
  if (job.code)
    s->failure.code = failure_of(job.code);
  server_fail(s);
  return 0;
}
