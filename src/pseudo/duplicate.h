/* Copies the running interpreter: into a region of its own, for another thread. */
#ifndef PSEUDO_DUPLICATE_H
#define PSEUDO_DUPLICATE_H

#include "image/userdata.h"
#include "pseudo/family.h"

#include <stddef.h>

/* Makes to's heap, L and program from from's, whose code must not run meanwhile. Returns
 * 0 or -errno, and says why in why[size]; then nothing was made. What userdata can't be
 * copied is for the caller to say before. */
int duplicate_make(struct family_member *to, struct family_member *from, char *why,
                   size_t size);
/* Which userdata there is, and whether all of it may be in two interpreters: as
 * userdata_look. Protected. */
int duplicate_look(struct family_member *m, struct userdata_list *ret,
                   struct userdata_refusal *ret_refusal);

#endif
