/* See line.h. */
#include "socket/line.h"

#include <errno.h>
#include <string.h>

enum { READ_SIZE = 65536 };

static int found(struct socket *s, size_t size, size_t taken, struct line *ret) {
  if (socket_is_beyond_limit(s, size))
    return -E2BIG;
  ret->text = (const char *)buf_peek(&s->in);
  ret->size = size;
  ret->taken = taken;
  return 1;
}

int line_peek(struct socket *s, char end, struct line *ret) {
  if (s->scanned_for != end) {
    s->scanned = 0;
    s->scanned_for = end;
  }
  for (;;) {
    const unsigned char *data = buf_peek(&s->in);
    size_t have = buf_size(&s->in);
    const unsigned char *at =
        have > s->scanned ? memchr(data + s->scanned, end, have - s->scanned) : NULL;
    if (at)
      return found(s, (size_t)(at - data), (size_t)(at - data) + 1, ret);
    if (socket_is_beyond_limit(s, have))
      return -E2BIG;
    s->scanned = have;
    ssize_t n = socket_fill(s, READ_SIZE, 0);
    if (n < 0)
      return (int)n;
    if (n == 0)
      return have > 0 ? found(s, have, have, ret) : 0;
  }
}
