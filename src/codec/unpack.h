/* A message that is read, in steps where it is long: one that has many values would hold
 * the reader for seconds. Both sides; private to src/codec. */
#ifndef CODEC_UNPACK_H
#define CODEC_UNPACK_H

#include "codec/codec.h"
#include <stddef.h>
#include <stdint.h>

/* What costs how much time, as a number of plain values. */
enum { OBJECT_EFFORT = 8, BYTES_PER_EFFORT = 256 };

/* Keys of a map that fall on one place of its table. */
struct crowd {
  unsigned short *counts; /* NULL: the map is small */
  unsigned ncounts;       /* a power of two */
  uint64_t places;
};

enum unpack_kind {
  UNPACK_LIST,
  UNPACK_ARRAY,
  UNPACK_KEY, /* of a map, and so is VALUE: what comes next */
  UNPACK_VALUE,
  UNPACK_OBJECT
};
struct unpack_level { /* an open table, or the object of a class */
  enum unpack_kind kind;
  int at;         /* where on the stack it is; of an object the name of its class */
  size_t left, n; /* items to come, items put */
  union {
    struct crowd crowd;
    const unsigned char *end; /* of an object: where its bytes end */
  } u;
};

struct unpack {
  lua_State *L;
  struct codec_error *e;
  struct reader r;
  int *fds;
  size_t nfds;
  size_t nodes, objects, bytes; /* what is left of the budgets */
  size_t effort;                /* of this step */
  const char *what;             /* for errors */
  int strict_classes;
  int (*push_last)(lua_State *L, const char *s, size_t n, void *data);
  void *push_data;
  int depth; /* -1: nothing was read yet */
  int nvalues;
  struct unpack_level levels[CODEC_DEPTH_MAX + 1];
};

/* Borrows all that it is given, until the message is read. */
void unpack_init(struct unpack *u, const void *data, size_t size, int *fds, size_t nfds,
                 const struct codec_limits *limits);
/* Reads until the message is complete (0; the nvalues lie on the stack), it has cost more
 * than `effort` (MF_AGAIN; about the number of values, where tables, strings and their
 * bytes count more), or it can't be read (e->code; what was read lies on the stack). The
 * stack has to be the one of the step before. */
int unpack_step(lua_State *L, struct unpack *u, size_t effort, struct codec_error *e);

#endif
