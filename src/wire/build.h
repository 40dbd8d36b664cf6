/* Which build speaks: the version of moonfork and the Lua that it was compiled for. It is
 * said in SETUP and in HELLO, and both sides compare: a template program and a library or
 * module of different builds would agree on less than they think. */
#ifndef WIRE_BUILD_H
#define WIRE_BUILD_H

#include "base/buf.h"

enum { BUILD_TEXT_MAX = 64 };
struct build {
  char version[BUILD_TEXT_MAX], lua[BUILD_TEXT_MAX]; /* "0.1.0"; "5.4.4" */
};

/* Ours, as the build of the tree says. */
extern const struct build build_own;
/* Appends str version, str lua. 0, -ENOMEM or -E2BIG. */
int build_put(struct buf *b);
/* Reads them; what can't be printed becomes '?', what is too long is cut. 0 or -EPROTO.
 */
int build_read(struct reader *r, struct build *ret);
int build_is_own(const struct build *b);

#endif
