/* A frame's header as sixteen bytes, and back. Runs in every process; pure.
 *
 *   0       4     5     6       8               16
 *   | length | type | nfds | flags |      id      |  body ...
 */
#include "wire/frame.h"

#include "base/origin.h"
#include <errno.h>

/* Spelled out, each becomes one load or store where the machine is little-endian. */
static void put16(unsigned char *out, unsigned v) {
  out[0] = (unsigned char)v;
  out[1] = (unsigned char)(v >> 8);
}

static void put32(unsigned char *out, uint32_t v) {
  put16(out, v & 0xffff);
  put16(out + 2, v >> 16);
}

static void put64(unsigned char *out, uint64_t v) {
  put32(out, (uint32_t)v);
  put32(out + 4, (uint32_t)(v >> 32));
}

static unsigned get16(const unsigned char *in) {
  return in[0] | (unsigned)in[1] << 8;
}

static uint32_t get32(const unsigned char *in) {
  return get16(in) | (uint32_t)get16(in + 2) << 16;
}

static uint64_t get64(const unsigned char *in) {
  return get32(in) | (uint64_t)get32(in + 4) << 32;
}

void frame_encode(unsigned char out[FRAME_HEADER_SIZE], const struct frame *f) {
  put32(out, f->length);
  out[4] = f->type;
  out[5] = f->nfds;
  put16(out + 6, f->flags);
  put64(out + 8, f->id);
}

int frame_decode(struct frame *ret_f, const unsigned char in[FRAME_HEADER_SIZE],
                 unsigned first_type, unsigned last_type) {
  uint32_t length = get32(in);
  uint16_t flags = (uint16_t)get16(in + 6);
  unsigned known = in[4] == CMD_FORK
                       ? FRAME_MORE | FRAME_BARE | FRAME_TELL | FRAME_ASK | FRAME_ROW
                       : FRAME_MORE;
  if (length > FRAME_BODY_MAX || in[5] > FRAME_FDS_MAX || (flags & ~known))
    return ORIGINAL(-EPROTO);
  if (in[4] < first_type || in[4] > last_type)
    return ORIGINAL(-EPROTO);
  ret_f->length = length;
  ret_f->type = in[4];
  ret_f->nfds = in[5];
  ret_f->flags = flags;
  ret_f->id = get64(in + 8);
  return 0;
}
