/* A request that has to wait: its bytes and duplicates of its descriptors, counted by
 * those who hold it. Runs in the parent. */
#ifndef PARENT_PAYLOAD_H
#define PARENT_PAYLOAD_H

#include "base/blockcache.h"
#include "parent/private.h"

struct payload {
  unsigned refs;
  size_t length, nfds; /* of all, and so is length where parts are lent */
  int *fds;            /* owned */
  unsigned char *data;
  size_t cap; /* bytes that fit */
  struct blockcache
      *blockcache;     /* data is a block of it, or NULL: data lies behind this struct */
  struct lent *lent;   /* parts that are not in data; a block, or NULL: there are none */
  struct mf_loan loan; /* theirs; its array is `lent` */
};

/* What is wrong with a request: 0 or MF_EINVAL, MF_ELIMIT (longer than message_max, more
 * than RPC_MESSAGE_FDS_MAX handles). */
int payload_check(const mf_message *m, uint64_t message_max);
/* A copy with one holder. Long ones lie in a block of the cache. reuse (or NULL) is a
 * payload that nobody holds, which is used when it is large enough and freed otherwise.
 * 0, MF_EINVAL (a descriptor that is none), MF_ENOMEM, or what dup says. reuse is gone in
 * any case. */
int payload_new(const mf_message *m, struct blockcache *blockcache, struct payload *reuse,
                struct payload **ret);
/* The same of a message whose parts are lent. Takes the loan, even on failure. */
int payload_new_lent(const mf_message *own, const struct mf_loan *loan,
                     struct blockcache *blockcache, struct payload **ret);
/* Its n > 1 pieces, at most PAYLOAD_PIECES_MAX, where parts of it are lent. */
enum { PAYLOAD_PIECES_MAX = 2 * MF_CALL_LENT_MAX + 1 };
size_t payload_pieces(const struct payload *p, struct iovec *pieces);
/* One with room for length bytes, which are for the caller to fill. NULL: no memory. */
struct payload *payload_blank(size_t length, struct blockcache *blockcache,
                              struct payload *reuse);
struct payload *payload_hold(struct payload *p);
/* Reads the first n bytes of the file that its one descriptor is. 0 or -errno. */
int payload_read_file(const struct payload *p, void *bytes, size_t n);
/* Closes the descriptors in a forked copy, where nobody else uses them. */
void payload_close(struct payload *p);
/* The last one to let go closes and frees. */
void payload_drop(void *payload);
/* As payload_drop, but the last one gets the memory back for payload_new; else NULL. */
struct payload *payload_recycle(struct payload *p);

#endif
