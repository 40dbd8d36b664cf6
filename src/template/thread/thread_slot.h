/* Addresses of clones that have ended, with their memory, for the next ones of a small
 * template: fresh memory costs a page fault for each 4 KiB. Of the clone before nothing
 * is left there but what the next one's copy overwrites. Bounded. Runs in templates; any
 * thread. */
#ifndef TEMPLATE_THREAD_SLOT_H
#define TEMPLATE_THREAD_SLOT_H

#include "template/heap/heap_copy.h"

/* Larger templates have none. */
#define THREAD_SLOT_MAX ((size_t)1 << 20)

/* For a copy of that heap: NULL: there is none. */
char *thread_slot_take(const struct heap *from);
/* Takes the heap of a clone that has ended. */
void thread_slot_put(struct heap *h);
/* Gives all of them back. */
void thread_slot_drop(void);

#endif
