/* The slots that a template shares with us (wire/slot_layout.h): where the kernel writes
 * a clone's pid and the clone its last words. One of these for each process that forks;
 * its clones hold it, too, since their words outlive it. Runs in the parent.
 *
 * What stands there was perhaps written by a hostile template: the number is a claim, to
 * be believed only of a child of ours that is nobody else's (children.h). */
#ifndef PARENT_PROCESS_BIRTHS_H
#define PARENT_PROCESS_BIRTHS_H

#include "parent/process/far.h"
#include <stdint.h>

struct births;

/* A free slot, zeroed, of *at, which is made where it is NULL. far: the slots are over
 * there, and the link tells of them; or NULL. 0, -ENOSYS: there is no shared memory here,
 * or another -errno. *ret_late: as births_late tells, of this slot. */
int births_take(struct births **at, struct backend *backend, struct far_link *far,
                uint32_t *ret_slot, int *ret_late);
/* Where the link knows the slot. */
void births_place(const struct births *b, uint32_t slot, uint32_t *ret_table,
                  uint32_t *ret_index);
/* Duplicates the descriptors of the slot's step for the template that does not know it
 * yet. 1 with *ret_first, *ret_count and both, 0: it knows it, or -errno. */
int births_step(struct births *b, uint32_t slot, uint32_t *ret_first, uint32_t *ret_count,
                int ret_fds[2]);
/* A fork needs no descriptors for its slot. b: or NULL. */
int births_are_known(const struct births *b);
/* A clone was born there: the template knows the step. */
void births_confirm(struct births *b, uint32_t slot);
int births_pid(const struct births *b, uint32_t slot); /* 0: none yet */
/* Copies the last words: their length, 0 for none. text: SLOT_TEXT_MAX bytes. */
size_t births_words(const struct births *b, uint32_t slot, char *text);
/* Whether the process forked by the command with that id has told there that its function
 * has returned. */
int births_returned(const struct births *b, uint32_t slot, uint64_t id);
/* Whether the template took connections when it forked there (wire/slot_layout.h). */
int births_listens(const struct births *b, uint32_t slot);
/* Nobody asks for what stands there any more. The slot is given to others when nobody
 * writes there either, as far as that is known: a child's end its caller has seen, that of
 * a process behind a link is looked for here. */
void births_put(struct births *b, uint32_t slot);
/* The number of a process that was born in a slot that had been given back: a lying
 * template has forked once more, or after it had refused to. *at: 0 the first time; where
 * the search goes on. 0: there is none. */
int births_late(struct births *b, uint32_t *at);
/* Its backend ends, and nobody here forks into it any more; then another one's is used.
 * b: or NULL. */
void births_leave(struct births *b);
void births_move(struct births *b, struct backend *backend);
struct births *births_hold(struct births *b);
void births_drop(struct births **at);
/* The template has ended: what has no number by now never gets one. */
void births_end(struct births *b);
int births_ended(const struct births *b);
/* In a forked copy: closes the descriptors. */
void births_forked(struct births *b);

#endif
