/* The body of a failure (proto.h; of an rpc's, rpc_proto.h), both ways. Runs in every
 * process; memory only. */
#ifndef WIRE_FAILURE_BODY_H
#define WIRE_FAILURE_BODY_H

#include "base/buf.h"
#include "wire/proto.h"

struct failure_body {
  unsigned code;   /* enum failure_code */
  unsigned second; /* enum failure_phase; of an rpc's 1: the function was not entered */
  uint32_t error;  /* errno or 0 */
  const char *message, *traceback; /* borrowed, not terminated; NULL: none */
  const void *value;               /* as an array of one, packed; NULL: none */
  size_t nmessage, ntraceback, nvalue;
};

/* Appends it. 0 or what buf_put says. */
int failure_body_encode(const struct failure_body *f, struct buf *out);
/* 0, or -EPROTO: malformed, or longer than FAILURE_TEXT_MAX and FAILURE_VALUE_MAX. What
 * is borrowed lies in body. */
int failure_body_decode(struct failure_body *ret, const void *body, size_t length);

#endif
