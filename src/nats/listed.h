/* A node's or far pool's entry in the list of mf_dump. */
#ifndef NATS_LISTED_H
#define NATS_LISTED_H

#include <moonfork.h>

/* Where libmoonfork's mf_dump knows it: nats_api.c. */
struct nats_listed {
  mf_dump_part part;
  void (*remove)(mf_dump_part *part); /* NULL: it does not */
};
static inline void nats_unlist(struct nats_listed *l) {
  if (l->remove)
    l->remove(&l->part);
  l->remove = NULL;
}

#endif
