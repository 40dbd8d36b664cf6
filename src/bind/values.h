/* What the library says, as Lua values. Runs in the parent. */
#ifndef BIND_VALUES_H
#define BIND_VALUES_H

#include "bind/bind.h"

/* A status with a text of its own. */
struct ending {
  mf_exit exit; /* error is not used */
  char *error;
};

/* Copies it; without memory the text is missing. */
void ending_set(struct ending *e, const mf_exit *exit);

/* The name of a code, of the closed set of the API. */
const char *bind_error_name(int code);
/* Pushes an error object. Strings may be NULL. */
void bind_error_push(lua_State *L, const char *code, const char *message,
                     const char *traceback, int started, const struct ending *ending);
/* true, or nil and an error object, for what a function of the library returned. Raises
 * where the object belongs to another process. */
int bind_result_push(lua_State *L, int rc);
void bind_ending_push(lua_State *L, const struct ending *e);
void bind_memory_push(lua_State *L, const mf_memory_info *m);
void bind_error_open(lua_State *L); /* registers the metatable */

#endif
