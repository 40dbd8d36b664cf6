/* What the function will be called with: handles and strings in the order they were sent.
 * Until run they wait outside of Lua, so that receiving them touches no Lua heap; short
 * strings lie side by side, long ones in mappings of their own, which the Lua heap takes
 * over as they are. Runs in templates and clones before run; clones inherit the list. */
#ifndef TEMPLATE_SERVER_ARGS_H
#define TEMPLATE_SERVER_ARGS_H

#include "base/buf.h"
#include "template/heap/heap.h"
#include "template/server/gather.h"
#include <lua.h>

struct args {
  struct arg *items;
  size_t n, cap;
  struct buf strings; /* the short ones */
  uint64_t bytes;     /* of all strings */
  size_t lead;        /* bytes before the characters in a block of a Lua string */
};

/* Finds out how this Lua lays out its strings. */
void args_init(struct args *a);
/* Takes fd, even on failure. 0 or -ENOMEM. */
int args_put_handle(struct args *a, int fd);
/* Copies. 0, -ENOMEM, or -E2BIG: more than PROTO_PAYLOAD_MAX in all. */
int args_put_string(struct args *a, const void *data, size_t n);
/* Takes what the gather holds (made with lead a->lead), leaving it empty; also on
 * failure. Same returns. */
int args_put_gather(struct args *a, struct gather *g);
/* A list of its own in *ret, which args_clear empties and args_deinit frees: the numbers
 * of handles are the same. 0 or -ENOMEM, and *ret is empty. */
int args_copy(const struct args *a, struct args *ret);
void args_deinit(struct args *a);
/* Of a copy that does not come to its own descriptors: the handles are not its own. */
void args_disown(struct args *a);
/* Closes the handles, forgets everything. */
void args_clear(struct args *a);
/* 1 when fd is one of the handles. */
int args_has_fd(const struct args *a, int fd);
/* Pushes every argument and empties the list; the handles' objects own them now. heap may
 * be NULL. May raise (memory): what was not pushed is still in the list then. Returns how
 * many were pushed. */
int args_push(struct args *a, lua_State *L, struct heap *heap);
/* Around the save of L as an image: puts the strings into it, in their order, and takes
 * them out again. Handles are not in images. May raise (memory). */
void args_keep(const struct args *a, lua_State *L);
void args_keep_end(lua_State *L);
/* What was kept is in the list again. May raise (memory). */
void args_resume(struct args *a, lua_State *L);

#endif
