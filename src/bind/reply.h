/* What an rpc or a pool has for Lua: a reply, an event, or a notice. Runs in the parent.
 */
#ifndef BIND_REPLY_H
#define BIND_REPLY_H

#include "bind/service.h"

enum { NEAR_BYTES = 192 }; /* a reply that is shorter needs no block of its own */

enum reply_kind {
  REPLY_RESULT,
  REPLY_EVENT,
  REPLY_ERROR,
  REPLY_CLOSED,
  REPLY_DRAIN,
  REPLY_WORKER
};

/* A completion with bytes and descriptors. */
struct reply {
  struct completion c; /* first: it is found by its address */
  enum reply_kind kind;
  struct service *service;
  size_t size, nfds;
  unsigned char *data;       /* near, or a block of cap bytes */
  size_t cap;                /* 0: the block is no message's */
  int *fds;                  /* a block, or NULL; -1: taken */
  size_t counted;            /* in the reactor's undelivered */
  struct decoding *decoding; /* in steps; or NULL */
  struct trash thread;       /* ref: keeps it */
  unsigned char near[NEAR_BYTES];
  /* Who takes the bytes of a result as they are, and what for; or NULL: they are
   * unpacked. */
  void (*take)(struct reply *r, void *taker);
  void *taker;
  int is_plain; /* or one string, the bytes as they are */
};

/* NULL: no memory. A result's target is its reference; the others are for the service's
 * cell. */
struct reply *reply_new(struct service *s, enum reply_kind kind);

/* For a taker: bytes and descriptors, blocks that are its own. NULL: no memory, and the
 * reply keeps them. */
unsigned char *reply_take(struct reply *r, size_t *ret_size, int **ret_fds,
                          size_t *ret_nfds);
/* An error object in place of values that can't be read. */
void reply_push_unreadable(lua_State *L, const struct codec_error *e);

/* The callbacks of the library. data: of the first a reply, of the others a service. */
void reply_on_result(const mf_error *error, const mf_message *message, void *data);
void reply_on_event(const mf_message *event, void *data);
void reply_on_error(const mf_error *error, void *data);
void reply_on_close(void *data);
void reply_on_drain(void *data);
void reply_on_worker(int event, int pid, const char *reason, void *data);

/* Goes on reading long replies for some milliseconds; those that are read are next in
 * done. */
void reply_read_on(lua_State *L, struct reactor *r);
/* Puts what is being read, and what waits for it, back into done, to be forgotten. */
void reply_stop_reading(struct reactor *r);

#endif
