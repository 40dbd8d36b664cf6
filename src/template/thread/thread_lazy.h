/* Clones in threads whose memory is copied as they touch it (the option `lazy`), for large
 * templates of which a clone needs little. Linux, by userfaultfd(2).
 *
 * Who owns what:
 *
 *   picture  what the clones that were forked since one seal are copied from
 *            (thread_picture.h). thread_copy.c has a reference until the template goes on,
 *            and so has each clone that has not got everything.
 *   lazy     one clone: its addresses, its picture, and what of it is in place. It belongs
 *            to the clone; nobody looks at it any more when lazy_free has returned.
 *   server   a thread that puts memory in place (thread_faults.h). One for the process.
 *
 * A chunk of a clone:   missing --touched by anybody, the kernel too--> in place
 * A clone:    registered --all chunks are in place; of a block: HEAP_MOVES--> ordinary
 *                        \--lazy_free--> gone
 *
 * The server takes one lock and no other: no allocation, no stream, no dynamic linker.
 * Whoever waits for memory may have any lock but that one. Runs in templates. */
#ifndef TEMPLATE_THREAD_LAZY_H
#define TEMPLATE_THREAD_LAZY_H

#include "template/thread/thread_picture.h"

/* A clone at `to`, whose ranges are accessible and untouched. Of `at_once`, n ranges, all
 * is in place when this returns. 0, or -errno: it is to be given up. On the thread that
 * serves. */
int lazy_new(struct picture *p, char *to, const struct heap_range *at_once, size_t n,
             struct lazy **ret);
/* Before its addresses are given back. NULL: nothing. */
void lazy_free(struct lazy *z);
/* A heap's watch (heap.h). On a thread of the clone's, which may have no lock. */
void lazy_watch(void *lazy, enum heap_watched what, char *from, size_t n);
/* Bytes that are not in place. */
uint64_t lazy_missing(const struct lazy *z);

#endif
