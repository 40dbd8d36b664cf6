#include "remote/opening.h"

#include "wire/proto.h"
#include <string.h>

size_t opening_limit(const struct opening *o, size_t n) {
  size_t most = o->nbody + (FRAME_HEADER_SIZE - o->nheader);
  return o->is_on && most < n ? most : n;
}

static size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}

void opening_count(struct opening *o, const unsigned char *bytes, size_t n) {
  struct frame f = {0};
  if (!o->is_on)
    return;
  size_t body = least(n, o->nbody);
  size_t header = least(n - body, FRAME_HEADER_SIZE - o->nheader);
  o->nbody -= body;
  memcpy(o->header + o->nheader, bytes + body, header);
  o->nheader += header;
  if (o->nheader < FRAME_HEADER_SIZE)
    return;
  o->is_on =
      frame_decode(&f, o->header, ANS_HELLO, ANS_LAST) == 0 && f.type != ANS_RUNNING;
  o->nheader = 0;
  o->nbody = f.length;
}
