/* A message of which some parts lie elsewhere: long strings, which would cost more to
 * copy than to send from where they are. Memory only; used by every process.
 *
 *   own      | aaaa bb ccc |          lent[0].at = 4, lent[1].at = 6
 *   goes as  aaaa <lent 0> bb <lent 1> ccc
 */
#ifndef BASE_LENT_H
#define BASE_LENT_H

#include <stddef.h>
#include <sys/uio.h>

struct lent {
  size_t at; /* bytes of the message's own that come before it */
  const void *p;
  size_t length; /* not 0 */
};

/* The bytes of all n of them. */
size_t lent_bytes(const struct lent *lent, size_t n);
/* The message in pieces, in the order in which they go, of which none is empty. Fills
 * lent_pieces(n) at most, and gives their number. */
static inline size_t lent_pieces(size_t n) {
  return 2 * n + 1;
}
size_t lent_cut(const void *own, size_t length, const struct lent *lent, size_t n,
                struct iovec *pieces);

#endif
