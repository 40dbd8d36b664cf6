/* How a process's socket begins: with frames of the control protocol up to *running*, then
 * come the bytes of its function. Whoever reads that word reads no byte more, and would
 * lose a descriptor that came with it. The agent has read both at once, and a descriptor
 * is passed on with the first of the bytes that it came with: so in the near end those
 * behind *running* are told apart. What does not begin so is not looked at further. Pure.
 * Runs in the near end. */
#ifndef REMOTE_OPENING_H
#define REMOTE_OPENING_H

#include "wire/frame.h"
#include <stddef.h>

struct opening {
  int is_on; /* *running* may still come */
  unsigned char header[FRAME_HEADER_SIZE];
  size_t nheader, nbody; /* of the frame: bytes that have come; bytes that have not */
};

/* The next n bytes have come: where in them *running* ends, or 0. */
size_t opening_pass(struct opening *o, const unsigned char *bytes, size_t n);

#endif
