/* Which userdata a copy of an interpreter can have, in a thread or in a file, and what
 * must be done for them there. A finaliser that nobody has vouched for refuses, and so
 * does a word that leads to memory outside of the interpreter: two copies would free it
 * twice.
 *
 *   the type                                     its rule
 *   no finaliser, no word that leads to memory   is bytes, copied
 *   moonfork.socket                              has its buffer for itself
 * (userdata_settle) FILE*: closed, or a standard stream          the process's streams;
 * others refuse lpeg-pattern, those of luasocket             all they have is in the
 * interpreter, or a number of a descriptor the library's own the same any with __clone in
 * its metatable            __clone(object) is called in the copy
 */
#ifndef TEMPLATE_AUDIT_USERDATA_H
#define TEMPLATE_AUDIT_USERDATA_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

enum { USERDATA_WHY_MAX = 512 };

struct userdata {
  uint64_t *sockets, *hooks; /* offsets of the objects from the region's start */
  size_t nsockets, nhooks;
};

/* Looks at all of L's state, which lies in nbytes from base on: 0, -ENOMEM, or -EPERM
 * with *why: type, path, what it is, and what to do. Makes garbage; may raise (memory).
 */
int userdata_look(lua_State *L, const void *base, size_t nbytes, struct userdata *ret,
                  char why[USERDATA_WHY_MAX]);
void userdata_free(struct userdata *u);
/* In the copy, whose region is at base: what the library has to do itself. 0 or -ENOMEM.
 */
int userdata_settle(const struct userdata *u, char *base);
/* Calls __clone for each that has it, on L of the copy. May raise what it raises. */
void userdata_call_hooks(const struct userdata *u, char *base, lua_State *L);

#endif
