/* How a process's socket begins: with frames of the control protocol up to *running*, then
 * come the bytes of its function. A descriptor is received with the first byte that is
 * read together with its own: with *running*, when both lie there, and whoever reads only
 * that would lose it. So in an agent nothing behind *running* is read with it. What does
 * not begin so is not looked at further. Pure. Runs in the agent. */
#ifndef REMOTE_OPENING_H
#define REMOTE_OPENING_H

#include "wire/frame.h"
#include <stddef.h>

struct opening {
  int is_on; /* *running* may still come */
  unsigned char header[FRAME_HEADER_SIZE];
  size_t nheader, nbody; /* of the frame: bytes that have come; bytes that have not */
};

/* How many of n bytes may be read at once. */
size_t opening_limit(const struct opening *o, size_t n);
/* These were. */
void opening_count(struct opening *o, const unsigned char *bytes, size_t n);

#endif
