/* Lua values as MessagePack and back (doc/rpc.md has the mapping). Packing is done by
 * msgpack-c straight from the stack; reading is ours, straight to the stack, because what
 * is read comes from the other process and must be bounded: in depth, in nodes, in the
 * memory it makes, and in the time that its keys cost. Both sides; knows Lua and bytes,
 * no process and no loop.
 *
 * A message is one array: the values of a call, a result or an event, nils at the end
 * included. A handle is an extension of two bytes, its place among the descriptors that
 * travel with the message. An object of a registered class (classes.h) is an extension,
 * too, whose bytes are MessagePack: the name of its class (str), and what its class packs
 * it to.
 *
 * Errors are returned, with a text that names the value by its path ("argument 2.t.x").
 * Packing raises nothing; reading may raise Lua's own lack of memory, with nothing held
 * that its owner does not know of. */
#ifndef CODEC_CODEC_H
#define CODEC_CODEC_H

#include "base/buf.h"
#include "base/lent.h"
#include <lua.h>

enum {
  CODEC_DEPTH_MAX = 128,       /* tables and objects inside each other */
  CODEC_NODES_MAX = 1 << 22,   /* values of a message, keys and tables included */
  CODEC_OBJECTS_MAX = 1 << 20, /* of these, tables and strings */
  CODEC_FDS_MAX = 1024,        /* handles of a message */
  CODEC_EXT_HANDLE = 1,        /* extension types: of a handle, */
  CODEC_EXT_OBJECT = 2         /* of an object of a class */
};
#define CODEC_BYTES_MAX ((size_t)1 << 31) /* memory that reading one message may make */

struct codec_error {
  int code; /* -EINVAL, -E2BIG, -EMFILE, -ENOMEM; reading: -EPROTO, -E2BIG */
  char text[256];
};

/* Descriptors that go with a message; owned. */
struct codec_fds {
  size_t n;
  int fd[CODEC_FDS_MAX];
};
void codec_fds_close(struct codec_fds *fds);

/* Appends the n values from index first. what is "argument", "result"..., which errors
 * give with a number; NULL: "value", without one. fds, which is empty, gets a duplicate
 * of every handle, NULL: there may be none. 0, or e->code; then out has a beginning that
 * the caller cuts off. Meanwhile out and fds may be used for another message: user code
 * may run, of handles, classes and finalisers. */
int codec_pack(lua_State *L, int first, int n, const char *what, struct buf *out,
               struct codec_fds *fds, struct codec_error *e);

/* Appends the message that has one string. 0, -ENOMEM or -E2BIG; all or nothing. */
int codec_pack_string(struct buf *out, const char *s, size_t n);

/* Strings that are not copied to a message, but lent (base/lent.h). */
struct codec_lending {
  size_t least; /* bytes of a string that is lent */
  int anchor;   /* a place on the stack, nil: of a table that is made to keep them all */
  struct lent *lent; /* the caller's, with room for max of them */
  size_t max, n, bytes;
};
/* The same, with lending (or NULL); the limit of out holds for both together. */
int codec_pack_lending(lua_State *L, int first, int n, const char *what, struct buf *out,
                       struct codec_fds *fds, struct codec_lending *lending,
                       struct codec_error *e);

/* How a message is read. Zero: the constants above, "value", no. */
struct codec_limits {
  size_t nodes, objects, bytes;
  const char *what;   /* as codec_pack's, for errors */
  int strict_classes; /* an object whose class is not registered is -EINVAL */
  /* Where the last bytes of the message are a string that is asked for: pushes it, if it
   * can do so without a copy, and gives 1; else 0. The bytes before it are read, and may
   * be overwritten. May be NULL. */
  int (*push_last)(lua_State *L, const char *s, size_t n, void *data);
  void *push_data;
};
/* Pushes the values and returns how many, or e->code with the stack as it was. Steals
 * from fds, leaving -1, what the message uses; the rest stays the caller's. */
int codec_unpack(lua_State *L, const void *data, size_t size, int *fds, size_t nfds,
                 const struct codec_limits *limits, struct codec_error *e);

/* Appends the object at idx, which is to be a handle, duplicated. Its place; -EINVAL: it
 * is none; -EBADF: not open; -E2BIG: too many; or another negated errno. */
int codec_add_handle(lua_State *L, int idx, struct codec_fds *fds);

#endif
