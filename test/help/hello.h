/* The body of a hello, for stand-ins of template programs. */
#ifndef HELP_HELLO_H
#define HELP_HELLO_H

#include "wire/build.h"
#include "wire/proto.h"

enum { HELLO_ROOM = 16 + 2 * (4 + BUILD_TEXT_MAX) };
static inline size_t hello_body(unsigned char *room, uint64_t executed) {
  struct buf b = {.data = room, .cap = HELLO_ROOM, .max = HELLO_ROOM};
  buf_put_u32(&b, PROTO_MAGIC);
  buf_put_u16(&b, PROTO_VERSION);
  buf_put_u16(&b, 0);
  buf_put_u64(&b, executed);
  build_put(&b);
  return buf_size(&b);
}

#endif
