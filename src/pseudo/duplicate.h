/* Copies the running interpreter: into a region of its own, for another thread. */
#ifndef PSEUDO_DUPLICATE_H
#define PSEUDO_DUPLICATE_H

#include "pseudo/family.h"

#include <stddef.h>

/* Makes to's heap, L and program from from's, whose code must not run meanwhile. Returns
 * 0 or -errno, and says why in why[size]; then nothing was made. What userdata can't be
 * copied is for the caller to say before. */
int duplicate_make(struct family_member *to, struct family_member *from, char *why,
                   size_t size);
/* The first userdata whose memory can't be in two interpreters: it has a finaliser, or
 * the address of memory elsewhere, and nobody vouches for it. Pushes it and the reason, a
 * string, and returns 1; or returns 0. */
int duplicate_obstacle(struct family_member *m);
/* In the copy, protected: calls __clone(object) of each userdata whose metatable has it.
 */
int duplicate_adopt(lua_State *L);

#endif
