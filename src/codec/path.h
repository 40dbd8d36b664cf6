/* Where in a message a value is, as a text for a person: "argument 2.t[3].x". Private to
 * src/codec. Both sides. */
#ifndef CODEC_PATH_H
#define CODEC_PATH_H

#include <lua.h>
#include <stddef.h>

struct path { /* bytes that no terminal minds; what is too long is cut */
  char *text;
  size_t n, room;
};

void path_add(struct path *t, const char *s, size_t n);
/* The first part: what it is, and which (0: there is only one). */
void path_begin(struct path *t, const char *what, lua_Integer position);
void path_add_position(struct path *t, lua_Integer position);
/* The key at stack index idx. */
void path_add_key(lua_State *L, struct path *t, int idx);
/* ": " and the reason, for which `room` bytes of text are left in any case. */
void path_end(struct path *t, size_t room, const char *reason);

#endif
