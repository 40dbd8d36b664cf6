/* How the values of calls, results and events become bytes and back; both sides of an rpc
 * have the same one, by its name:
 *
 *   "msgpack"  any values (codec.h)
 *   "string"   byte strings, each u32 length (little-endian) and bytes; handles come
 *              behind the strings, wherever they stood
 *   "raw"   one string, which is the body
 *   a module   encode(...) gives one string, decode(string) the values; no handles
 */
#ifndef CODEC_SERIALISER_H
#define CODEC_SERIALISER_H

#include "codec/codec.h"

struct serialiser {
  const struct serialiser_kind *kind;
  int encode, decode; /* registry references of a module's functions, or LUA_NOREF */
  const char *reads;  /* "argument", "result": what it decodes, for errors; or NULL */
  int strict_classes; /* these as in codec_limits; set by the owner, as `reads` */
  int (*push_last)(lua_State *L, const char *s, size_t n, void *data);
  void *push_data;
};

/* Whether the body is the one value as it is. */
int serialiser_is_raw(const struct serialiser *s);
/* Whether long messages are decoded in steps (struct decoding). */
int serialiser_has_steps(const struct serialiser *s);
/* Loads a module; raises what its require raises, or where it is no serialiser. */
void serialiser_open(lua_State *L, const char *name, struct serialiser *ret);
void serialiser_close(lua_State *L, struct serialiser *s);
/* As codec_pack and codec_unpack. A module's encode and decode may yield nowhere; what
 * they raise is -EINVAL with their message. */
int serialiser_encode(lua_State *L, const struct serialiser *s, int first, int n,
                      const char *what, struct buf *out, struct codec_fds *fds,
                      struct codec_error *e);
/* The same, but long strings may be lent; "msgpack" does that. */
int serialiser_encode_lending(lua_State *L, const struct serialiser *s, int first, int n,
                              const char *what, struct buf *out, struct codec_fds *fds,
                              struct codec_lending *lending, struct codec_error *e);
/* As serialiser_encode, of one string that need not be Lua's. */
int serialiser_encode_string(lua_State *L, const struct serialiser *s, const char *text,
                             size_t size, struct buf *out, struct codec_error *e);
/* Where the n values from index first are a string that is the body as it is, its bytes,
 * Lua's; else NULL. */
const char *serialiser_borrow(lua_State *L, const struct serialiser *s, int first, int n,
                              size_t *ret_size);
int serialiser_decode(lua_State *L, const struct serialiser *s, const void *data,
                      size_t size, int *fds, size_t nfds, struct codec_error *e);

/* The same in steps, so that a long message holds nobody up: in a coroutine that yields
 * behind each step. "msgpack" and "string" have steps; the others are read in one. */
struct decoding {
  const struct serialiser *serialiser; /* these are borrowed until the end */
  const void *data;
  size_t size;
  int *fds;
  size_t nfds;
  struct codec_error e;
  lua_State *thread; /* the values, when they are all read */
  int nvalues;
  size_t effort;
  struct reader strings;
  void *unpack;
};
/* Pushes the coroutine, which the caller keeps from being collected while d is in use.
 * May raise (memory). */
void decoding_begin(lua_State *L, struct decoding *d, const struct serialiser *s,
                    const void *data, size_t size, int *fds, size_t nfds);
/* Goes on for about `effort` values. 0: they are read, and lie on top of d->thread;
 * MF_AGAIN; or d->e.code. Raises nothing. */
int decoding_step(lua_State *L, struct decoding *d, size_t effort);

#endif
