/* Whether all userdata of this interpreter may be in a copy of it, by the one policy
 * (image/userdata.h), and what the library does for its own in a copy. Here the answer
 * gets names and paths. Runs in templates and clones. */
#ifndef TEMPLATE_AUDIT_COPYABLE_H
#define TEMPLATE_AUDIT_COPYABLE_H

#include "image/userdata.h"

enum { COPYABLE_NAME_MAX = 256, COPYABLE_WHY_MAX = 512 };

/* Looks at all of L's state, which lies in nbytes from base on: 0, -ENOMEM, or -EPERM
 * with *why: type, path, what it is, and what to do. Makes garbage; may raise (memory).
 */
int copyable_look(lua_State *L, enum userdata_use use, const void *base, size_t nbytes,
                  struct userdata_list *ret, char why[COPYABLE_WHY_MAX]);
/* The same for the image of a function that runs: it may have sockets, which are listed.
 */
int copyable_look_running(lua_State *L, const void *base, size_t nbytes,
                          struct userdata_list *ret, char why[COPYABLE_WHY_MAX]);
/* "userdata of type 'x' (app.cache[3])" for the userdata at the index. May raise. */
void copyable_name(lua_State *L, int index, char text[COPYABLE_NAME_MAX]);
/* In the copy of a thread, whose region is at base: makes the sockets' memory their own.
 * 0 or -ENOMEM. */
int copyable_settle(const struct userdata_list *u, char *base);

#endif
