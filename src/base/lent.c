#include "base/lent.h"

#include <stdint.h>

size_t lent_bytes(const struct lent *lent, size_t n) {
  size_t bytes = 0;
  for (size_t i = 0; i < n; i++)
    bytes += lent[i].length;
  return bytes;
}

static void add_piece(struct iovec *pieces, size_t *n, const void *p, size_t length) {
  if (length > 0)
    pieces[(*n)++] = (struct iovec){(void *)(uintptr_t)p, length};
}

size_t lent_cut(const void *own, size_t length, const struct lent *lent, size_t n,
                struct iovec *pieces) {
  const unsigned char *bytes = own;
  size_t count = 0, at = 0;
  for (size_t i = 0; i < n; at = lent[i++].at) {
    add_piece(pieces, &count, bytes + at, lent[i].at - at);
    add_piece(pieces, &count, lent[i].p, lent[i].length);
  }
  add_piece(pieces, &count, bytes + at, length - at);
  return count;
}
