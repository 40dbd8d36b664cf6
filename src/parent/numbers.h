/* What is known by a number: calls by theirs. Numbers count up from 1 in 64 bits, so none
 * is ever used twice; the table is as large as what it holds at one time. Pure. Runs in
 * the parent. */
#ifndef PARENT_NUMBERS_H
#define PARENT_NUMBERS_H

#include <stddef.h>
#include <stdint.h>

struct numbers {
  struct number {
    uint64_t id;
    void *value;
  } * slots;         /* value NULL: free */
  size_t size, used; /* size: a power of two */
  uint64_t next;
};

void numbers_init(struct numbers *t);
void numbers_deinit(struct numbers *t);
/* Gives value (not NULL) a number. 0 or -ENOMEM. */
int numbers_add(struct numbers *t, void *value, uint64_t *ret_id);
void *numbers_get(const struct numbers *t, uint64_t id); /* or NULL */
void numbers_remove(struct numbers *t, uint64_t id);

#endif
