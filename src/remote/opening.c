#include "remote/opening.h"

#include "wire/proto.h"
#include <string.h>

static size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}

/* Up to the end of a header at most. */
static size_t take(struct opening *o, const unsigned char *bytes, size_t n) {
  size_t body = least(n, o->nbody);
  size_t header = least(n - body, FRAME_HEADER_SIZE - o->nheader);
  o->nbody -= body;
  memcpy(o->header + o->nheader, bytes + body, header);
  o->nheader += header;
  return body + header;
}

size_t opening_pass(struct opening *o, const unsigned char *bytes, size_t n) {
  size_t at = 0;
  while (o->is_on && at < n) {
    struct frame f = {0};
    at += take(o, bytes + at, n - at);
    if (o->nheader < FRAME_HEADER_SIZE)
      return 0;
    int r = frame_decode(&f, o->header, ANS_HELLO, ANS_LAST);
    o->nheader = 0;
    o->nbody = f.length;
    o->is_on = r == 0 && f.type != ANS_RUNNING;
    if (r == 0 && f.type == ANS_RUNNING)
      return at;
  }
  return 0;
}
