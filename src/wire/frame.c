/* A frame's header as sixteen bytes, and back. Runs in every process; pure.
 *
 *   0       4     5     6       8               16
 *   | length | type | nfds | flags |      id      |  body ...
 */
#include "wire/frame.h"

#include <errno.h>

static void put(unsigned char *out, uint64_t v, int width) {
  for (int i = 0; i < width; i++)
    out[i] = (unsigned char)(v >> (8 * i));
}

static uint64_t get(const unsigned char *in, int width) {
  uint64_t v = 0;
  for (int i = 0; i < width; i++)
    v |= (uint64_t)in[i] << (8 * i);
  return v;
}

void frame_encode(unsigned char out[FRAME_HEADER_SIZE], const struct frame *f) {
  put(out, f->length, 4);
  put(out + 4, f->type, 1);
  put(out + 5, f->nfds, 1);
  put(out + 6, f->flags, 2);
  put(out + 8, f->id, 8);
}

int frame_decode(struct frame *ret_f, const unsigned char in[FRAME_HEADER_SIZE],
                 unsigned first_type, unsigned last_type) {
  uint32_t length = (uint32_t)get(in, 4);
  uint16_t flags = (uint16_t)get(in + 6, 2);
  if (length > FRAME_BODY_MAX || in[5] > FRAME_FDS_MAX || (flags & ~FRAME_MORE))
    return -EPROTO;
  if (in[4] < first_type || in[4] > last_type)
    return -EPROTO;
  ret_f->length = length;
  ret_f->type = in[4];
  ret_f->nfds = in[5];
  ret_f->flags = flags;
  ret_f->id = get(in + 8, 8);
  return 0;
}
