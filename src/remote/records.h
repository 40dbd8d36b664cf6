/* Records of chunks of calls (wire/chunk.h): memory in which a worker tells which items
 * it has begun and what it has answered, so that its death costs one item. The parent's
 * record is here, in the near end; the worker has one of the agent's, whose content
 * comes before the end of the worker's socket. Until then the parent's says that every
 * item may have been begun. Runs in the near end and the agent. */
#ifndef REMOTE_RECORDS_H
#define REMOTE_RECORDS_H

#include "base/list.h"
#include "wire/link.h"
#include <sys/stat.h>

struct records {
  struct list all; /* the least recently used first */
  unsigned count;
  uint32_t last; /* the largest number so far */
};

void records_init(struct records *r);

/* ---- near end ---- */

/* Whether fd is a record of the parent's: *ret is what it becomes over there. out: for
 * what has to be said first. Borrows fd. */
int records_classify(struct records *r, int fd, const struct stat *st,
                     struct link_descriptor *ret, struct buf *out);
/* LINK_MEMORY. 0 or -EPROTO. */
int records_take(struct records *r, const struct link_frame *f);
/* Passes on what the parent wants stopped. 0 or -errno. */
int records_put_stops(struct records *r, struct buf *out);

/* ---- agent ---- */

/* The memory for d, cleared, whose worker has that channel; the caller's. Or -EPROTO, or
 * another -errno. */
int records_add(struct records *r, const struct link_descriptor *d, uint32_t channel);
/* The socket of a worker has ended: what it left. 0 or -errno. */
int records_put(struct records *r, uint32_t channel, struct buf *out);
/* That number is no channel's any more. */
void records_forget(struct records *r, uint32_t channel);
/* LINK_RECORD_STOP, LINK_RECORD_DROP. 0 or -EPROTO. */
int records_order(struct records *r, const struct link_frame *f);

#endif
