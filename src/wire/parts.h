/* A message in parts: frames of one type, all but the last with FRAME_MORE, whose bodies
 * are one body. Which frame may be the next part, and how long the body is; the bytes are
 * the owner's. Used by templates for commands and on both sides of an rpc; pure.
 *
 *   parts_begin -> parts_grow ... parts_refuse, parts_grow ... until no FRAME_MORE
 *               -> parts_end
 */
#ifndef WIRE_PARTS_H
#define WIRE_PARTS_H

#include "wire/frame.h"
#include <stddef.h>

struct parts {
  unsigned type; /* 0: none is under way */
  uint64_t id;
  uint64_t length; /* of the body so far */
};

/* The first part: it says type and id. */
void parts_begin(struct parts *p, const struct frame *f);
/* What is wrong with the frame as the next part; NULL: nothing. */
const char *parts_refuse(const struct parts *p, const struct frame *f);
/* n bytes more. 0, or -E2BIG: the body would be longer than max. */
int parts_grow(struct parts *p, size_t n, uint64_t max);
void parts_end(struct parts *p);

#endif
