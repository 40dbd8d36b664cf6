/* Pointers by id. Ids count up from 1 in 64 bits, so none is ever used twice; the table
 * is as large as what it holds at one time. Memory only. Runs in every process. */
#ifndef BASE_IDMAP_H
#define BASE_IDMAP_H

#include <stddef.h>
#include <stdint.h>

struct idmap {
  struct idmap_slot {
    uint64_t id;
    void *value;
  } * slots;         /* value NULL: free */
  size_t size, used; /* size: a power of two */
  uint64_t next;
};

void idmap_init(struct idmap *t);
void idmap_deinit(struct idmap *t);
/* Gives value (not NULL) an id. 0 or -ENOMEM. */
int idmap_add(struct idmap *t, void *value, uint64_t *ret_id);
void *idmap_get(const struct idmap *t, uint64_t id); /* or NULL */
void idmap_remove(struct idmap *t, uint64_t id);

#endif
