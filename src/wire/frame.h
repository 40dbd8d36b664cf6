/* A frame's header and its bytes; pure. */
#ifndef WIRE_FRAME_H
#define WIRE_FRAME_H

#include "wire/proto.h"
#include <stdint.h>

struct frame {
  uint32_t length;
  uint8_t type, nfds;
  uint16_t flags;
  uint64_t id;
  const unsigned char *body; /* borrowed */
};

void frame_encode(unsigned char out[FRAME_HEADER_SIZE], const struct frame *f);
/* 0, or -EPROTO: unknown flag, length past FRAME_BODY_MAX, nfds past FRAME_FDS_MAX, or a
 * type outside [first, last]. body is not set. */
int frame_decode(struct frame *ret_f, const unsigned char in[FRAME_HEADER_SIZE],
                 unsigned first_type, unsigned last_type);

#endif
