/* One connection to a NATS server, on a libuv loop. Nothing here makes the loop wait:
 * names are looked up and connections are made in a thread of their own, which ends with
 * the attempt. A connection that is lost is made again, by a new attempt, until the
 * engine is closed; subscriptions outlive it, what was published and not written does
 * not.
 *
 *   engine_new -> CONNECTING -> UP -> DOWN -> CONNECTING ...
 *                     '-> DOWN                        any -> engine_close -> callback
 *
 * Callbacks come on the loop's thread. Those of messages and states may call any function
 * here. Runs in the parent. */
#ifndef NATS_ENGINE_H
#define NATS_ENGINE_H

#include "base/list.h"
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

enum engine_state { ENGINE_CONNECTING, ENGINE_UP, ENGINE_DOWN, ENGINE_CLOSED };

struct engine;
struct engine_sub;
struct engine_request;

struct engine_options { /* strings may be NULL but url; copied */
  const char *url;      /* one, or several with commas between them */
  const char *name, *user, *password, *token, *creds, *ca, *cert, *key;
};

struct engine_header {
  const char *name, *value;
};

/* Valid during the callback. */
struct engine_message {
  const char *subject, *reply; /* reply: NULL where there is none */
  const unsigned char *data;
  size_t length;
  int no_responders; /* the answer of the server itself: nobody has this subject */
  void *source;      /* for engine_header_of */
};
/* NULL: it has none of that name. */
const char *engine_header_of(const struct engine_message *m, const char *name);

typedef void engine_message_cb(const struct engine_message *m, void *data);
typedef void engine_state_cb(struct engine *e, void *data);
/* code 0: m is the answer. MF_ETIMEOUT, or MF_EENGINE: the connection was lost, or
 * nobody has the subject (m is the server's word, started is what may have come of it).
 */
typedef void engine_answer_cb(int code, const struct engine_message *m, void *data);

/* What a user can do who has no room for threads. */
#define ENGINE_THREADS_HINT                                                              \
  "raise the limit on processes and threads (ulimit -u; TasksMax= of a service, or "     \
  "pids.max of a control group)"

/* The first attempt begins at once. The callback hears each change of the state. 0,
 * -ENOMEM, -EAGAIN where libnats can't start its threads, or what libuv says. */
int engine_new(uv_loop_t *loop, const struct engine_options *o, engine_state_cb *on_state,
               void *data, struct engine **ret);
/* Closes subscriptions without a callback, ends requests with MF_ECANCELLED (before
 * done), writes what waits to be written for at most a second, and calls done when no
 * thread, descriptor or handle is left; e is gone then. Only a thread that has been
 * connecting for all of that second ends by itself, later. */
void engine_close(struct engine *e, void (*done)(void *data), void *data);
/* The same, sooner: what can't be written at once is lost, and a thread that is
 * connecting ends by itself, later. */
void engine_abort(struct engine *e, void (*done)(void *data), void *data);

/* This process is a copy, by fork, of the one that made e: nothing of e is used here. */
int engine_is_foreign(const struct engine *e);
enum engine_state engine_state(const struct engine *e);
/* The servers of its options, without what may be a password. */
void engine_put_servers(const struct engine *e, char *to, size_t size);
/* Why it is not UP, for a person. */
const char *engine_reason(const struct engine *e);
/* It refused us, as wrong names or certificates are refused: waiting will not help. */
int engine_is_refused(const struct engine *e);
/* It was UP at some time. */
int engine_was_up(const struct engine *e);
int engine_has_tried(const struct engine *e); /* an attempt to connect has ended */
/* The longest message that it takes, as it said when it was UP last. */
size_t engine_max_payload(const struct engine *e);
/* A word of 22 letters and digits that no other engine in the world has, for subjects. */
const char *engine_id(const struct engine *e);

/* Sends, in the next turn of the loop at the latest; reply and headers may be NULL.
 * -ENOTCONN: it is not UP; MF_ELIMIT: longer than engine_max_payload; -ENOBUFS: too much
 * waits to be written; -ENOMEM. */
int engine_publish(struct engine *e, const char *subject, const char *reply,
                   const struct engine_header *headers, size_t nheaders, const void *data,
                   size_t length);

enum {
  ENGINE_STATUS = 1 /* wants no_responders too. They come by a thread, and later than
                       messages that came before them; without it they are dropped */
};
/* Messages of a subject (wildcards: * and >) go to cb, until engine_unsubscribe. While
 * the engine is not UP it is kept, and made when it is. 0 or -ENOMEM. */
int engine_subscribe(struct engine *e, const char *subject, int flags,
                     engine_message_cb *cb, void *data, struct engine_sub **ret);
/* No callback from here on. NULL is none. */
void engine_unsubscribe(struct engine_sub *s);

/* The server sends no more of it. What it has sent before still comes: until a fence
 * that is put up after this call. */
void engine_quit(struct engine_sub *s);

/* Calls cb when the server has taken all that was published before, and all that it had
 * sent by then has been given out; or when the connection is lost, or there is none. From
 * the loop, never inside this call. The memory is the caller's. */
struct engine_fence {
  struct list link; /* private, as what follows */
  uint64_t number;
  void (*cb)(void *data);
  void *data;
};
void engine_fence(struct engine *e, struct engine_fence *f, void (*cb)(void *data),
                  void *data);
void engine_fence_cancel(struct engine_fence *f); /* no callback; twice is harmless */

/* cb is called before what was published in a turn is written, if there is anything or
 * engine_touch was called: to publish what was collected. One for each engine. */
void engine_on_flush(struct engine *e, void (*cb)(void *data), void *data);
void engine_touch(struct engine *e);

/* Publishes with a reply subject of its own, and waits for one answer. cb comes once,
 * from the loop, never inside this call; what can't be sent is told there too. 0 or
 * -ENOMEM. ret may be NULL. */
int engine_request(struct engine *e, const char *subject,
                   const struct engine_header *headers, size_t nheaders, const void *data,
                   size_t length, unsigned timeout_ms, engine_answer_cb *cb,
                   void *cb_data, struct engine_request **ret);
void engine_request_cancel(struct engine_request *r); /* no callback */

/* While it is held more often than released the loop stays alive for it. */
void engine_hold(struct engine *e);
void engine_release(struct engine *e);

struct engine_stats {
  uint64_t connects, messages_in, messages_out, bytes_in, bytes_out, dropped;
  size_t unwritten; /* bytes */
};
void engine_get_stats(const struct engine *e, struct engine_stats *s);

/* The version of libnats that runs: "3.4.1". */
const char *engine_library_version(void);

#endif
