/* The user that a server's workers run as. */
#include "serve/module.h"

#include <errno.h>
#include <grp.h>
#include <lauxlib.h>
#include <pwd.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static int is_number(const char *text, unsigned long *ret) {
  char *end;
  errno = 0;
  *ret = strtoul(text, &end, 10);
  return *text >= '0' && *text <= '9' && *end == '\0' && errno == 0 &&
         *ret < (unsigned)-1;
}

static int no_such(lua_State *L, const char *what, const char *name) {
  luaL_pushfail(L);
  lua_pushfstring(L, "there is no %s '%s'", what, name);
  lua_pushinteger(L, ENOENT);
  return 3;
}

static int not_allowed(lua_State *L, const char *what, const char *name) {
  int err = errno;
  if (err != EPERM)
    return serve_fail(L, err, name);
  luaL_pushfail(L);
  lua_pushfstring(L, "can't become %s '%s': only root may", what, name);
  lua_pushinteger(L, err);
  return 3;
}

/* become(user | nil, group | nil): names or numbers. The group of a user is his own, when
 * none is named, and so are the supplementary groups. True, or nil, message, errno; then
 * nothing has changed, or, where the last step fails, only groups. setresuid(2): no way
 * back. */
static int l_become(lua_State *L) {
  const char *user = luaL_optstring(L, 1, NULL), *group = luaL_optstring(L, 2, NULL);
  unsigned long number;
  uid_t uid = (uid_t)-1;
  gid_t gid = (gid_t)-1;
  const char *name = NULL;
  if (user) {
    const struct passwd *entry =
        is_number(user, &number) ? getpwuid((uid_t)number) : getpwnam(user);
    if (entry) {
      uid = entry->pw_uid;
      gid = entry->pw_gid;
      name = entry->pw_name;
    } else if (is_number(user, &number)) {
      uid = (uid_t)number;
    } else {
      return no_such(L, "user", user);
    }
  }
  if (group) {
    const struct group *entry =
        is_number(group, &number) ? getgrgid((gid_t)number) : getgrnam(group);
    if (!entry && !is_number(group, &number))
      return no_such(L, "group", group);
    gid = entry ? entry->gr_gid : (gid_t)number;
  }
  if (gid != (gid_t)-1) {
    if (name ? initgroups(name, gid) < 0 : setgroups(0, NULL) < 0)
      return not_allowed(L, user ? "user" : "group", user ? user : group);
    if (setresgid(gid, gid, gid) < 0)
      return not_allowed(L, group ? "group" : "user", group ? group : user);
  }
  if (uid != (uid_t)-1 && setresuid(uid, uid, uid) < 0)
    return not_allowed(L, "user", user);
  lua_pushboolean(L, 1);
  return 1;
}

void user_open(lua_State *L) {
  lua_pushcfunction(L, l_become);
  lua_setfield(L, -2, "become");
}
