/* moonfork over NATS: pools that are elsewhere (doc/nats.md). pkg-config: moonfork-nats.
 *
 * A node gives the calls of a subject to a pool of this program; a far pool is all nodes
 * of a subject, seen from a caller. Between them is a NATS server, the engine.
 *
 * Rules besides those of <moonfork.h>:
 *  - An mf_node or mf_far belongs to one loop and its thread. The loop never waits for
 *    the network: names are looked up and connections are made in a thread that ends with
 *    the attempt. libnats has four threads of its own from the first object to the end
 * of the last (a program that uses libnats itself calls nats_Open before the first).
 *  - Connections that are lost are made again. Nothing here keeps the loop alive but
 * calls and drains under way, and closing.
 *  - Every call's callback comes once, from the loop, never inside the call.
 *  - What a call's error says of `started`: NO only with proof. MF_EENGINE: the engine
 *    can't be reached or refused. MF_ECLONE_DIED: a worker died (the node says so), or
 * the node gave no sign of life for silent_ms.
 *  - Everything is borrowed for the call, and copied.
 *  - What can't be used is MF_EINVAL: NULL for an object or a request, a URL with another
 *    scheme than nats:// and tls://. Closing and giving up NULL does nothing. A NULL
 *    callback of a call, a post, a drain or a close: nobody wants to know. */
#ifndef MOONFORK_NATS_H
#define MOONFORK_NATS_H

#include <moonfork.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mf_node mf_node;
typedef struct mf_far mf_far;

typedef struct mf_nats_options { /* start from MF_NATS_OPTIONS_INIT */
  size_t size;
  struct uv_loop_s *loop; /* of a node; NULL: uv_default_loop() */
  const char *url;        /* "nats://HOST:PORT", "tls://HOST:PORT"; several: with commas.
                          Before the host USER:PASSWORD@ or TOKEN@ may stand, with %XX */
  const char *subject;    /* words with dots between them, no blanks, * or >; at most 200
                          bytes */
  const char *name; /* for people, in mf_far_nodes; UTF-8 without control characters;
                          NULL: host and process */
  const char *user, *password, *token;
  const char *creds;           /* file with a token and a key, as nsc writes it */
  const char *ca, *cert, *key; /* PEM files; each of them asks for TLS */
  unsigned beat_ms;            /* of a node: between two signs of life; 300 */
  unsigned window;             /* of a node: calls held; 0: workers x load + 16, for which
                                  load is that of the pool */
  unsigned load;               /* of the pool of a node, as the pool was given it; 2 */
  unsigned timeout_ms;         /* of a caller: from call to answer; MF_NO_TIMEOUT: none */
  unsigned queue_max;          /* of a caller: calls that wait for a node; 65,536 */
  uint64_t queue_bytes_max;    /* of a caller: bytes of calls that wait; 64 MiB */
  unsigned silent_ms; /* of a caller: a node without a sign of life for so long is
                         gone; 1,500 */
  const char *jobs;   /* of a node: also works at stored jobs, in the stream of this name
                         (letters, digits, - and _), which is made where it is missing */
  unsigned keep_s;    /* of a node with jobs: results are kept so long; 86,400 */
} mf_nats_options;
#define MF_NATS_OPTIONS_INIT                                                             \
  {                                                                                      \
    sizeof(mf_nats_options), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
        NULL, 300, 0, 2, MF_NO_TIMEOUT, 65536, 64u << 20, 1500, NULL, 86400              \
  }
MF_API void mf_nats_options_init(mf_nats_options *options);

enum mf_engine_state {
  MF_ENGINE_CONNECTING = 0, /* the first attempt, or another after a loss */
  MF_ENGINE_UP = 1,
  MF_ENGINE_DOWN = 2, /* the next attempt is due within a second */
  MF_ENGINE_CLOSED = 3
};

/* ---- a node ---- */

/* Gives calls of options.subject to the pool, as soon as the engine is reached. Borrows
 * the pool: close the node first, and the pool in the node's callback or later. */
MF_API int mf_node_new(mf_pool *, const mf_nats_options *, mf_node **ret);

typedef void (*mf_node_cb)(mf_node *, const mf_error *error, void *data);
/* Takes no more calls: callers are told, what they sent meanwhile goes to other nodes.
 * What the node has is answered; then the callback. After timeout_ms (MF_NO_TIMEOUT:
 * never) what is left is given up: error MF_ETIMEOUT. MF_ECLOSED: that was asked for
 * already. The pool is not touched. */
MF_API int mf_node_drain(mf_node *, unsigned timeout_ms, mf_node_cb, void *data);

typedef struct mf_node_info {
  size_t size; /* set by the caller */
  char id[32], name[72];
  int engine; /* enum mf_engine_state */
  char engine_reason[256];
  int draining;
  unsigned window, held;
  uint64_t calls, answers, errors; /* taken; answered with a result; with an error */
  uint64_t refused;     /* there was no room: the caller sends them elsewhere */
  uint64_t undelivered; /* answers that no connection took */
  uint64_t bad;         /* messages that are none of ours */
  uint64_t connects, bytes_in, bytes_out;
  unsigned jobs_held; /* stored jobs that are here; `held` has them, too */
  uint64_t jobs_done, jobs_failed, jobs_dead; /* tries with a result and without; jobs
                                                 given up */
  uint64_t jobs_redelivered;                  /* came here, but not for the first time */
  char jobs_reason[256];                      /* why none come, while that is so */
} mf_node_info;
MF_API int mf_node_stats(const mf_node *, mf_node_info *);

/* Gives up what is left, at once. mf_node_close is due. */
MF_API void mf_node_abort(mf_node *);
typedef void (*mf_node_close_cb)(mf_node *, void *data);
/* Needed once: as mf_node_drain without a time limit, then the callback (or NULL), after
 * which the pointer is invalid, and no thread, descriptor or handle of it is left. */
MF_API void mf_node_close(mf_node *, mf_node_close_cb, void *data);

/* ---- a far pool ---- */

/* Without nodes it takes calls, which wait. */
MF_API int mf_far_new(struct uv_loop_s *, const mf_nats_options *, mf_far **ret);
/* As mf_pool_call: goes to a node that has announced room, else waits. With idempotent a
 * call of a node that is gone goes to another, twice at most. MF_ELIMIT: queue_max or
 * queue_bytes_max is exceeded, or the request is longer than the engine takes
 * (max_payload, usually 1 MiB); MF_EINVAL: it has descriptors; MF_ECLOSED.
 * A chunk of items may have one, its record, which says after an error what was answered
 * and entered. Microseconds in it should be 20,000 at most: the node's pool may have a
 * call_timeout. MF_ELIMIT, started NO, by the callback: the node with room takes no
 * chunks. After timeout_ms its node has 1.5 seconds (or silent_ms) to say how far it
 * came. */
MF_API int mf_far_call(mf_far *, const mf_message *request, const mf_call_options *,
                       mf_reply_cb, void *data, uint64_t *ret_id);
MF_API int mf_far_cancel(mf_far *, uint64_t id); /* as mf_pool_cancel */

typedef void (*mf_far_cb)(mf_far *, const mf_error *error, void *data);
/* Takes no more calls, lets those it has finish, and tells. After timeout_ms what is left
 * gets MF_ECANCELLED: error MF_ETIMEOUT. MF_ECLOSED: that was asked for already. */
MF_API int mf_far_drain(mf_far *, unsigned timeout_ms, mf_far_cb, void *data);
/* Of the calls that were there at mf_far_drain, as mf_pool_drain_report. */
MF_API int mf_far_drain_report(const mf_far *, mf_drain_report *);

typedef struct mf_far_info {
  size_t size; /* set by the caller */
  int engine;  /* enum mf_engine_state */
  char engine_reason[256];
  int state; /* enum mf_pool_state: RUNNING, DRAINING or CLOSED */
  unsigned nodes, workers;
  size_t queued, running;
  uint64_t calls, done, failed; /* accepted; answered with a result; with an error */
  uint64_t refused, timeouts, cancelled, late;
  uint64_t retried; /* sent again: the node had no room, was not there, or is gone */
  uint64_t lost;    /* nodes that were gone without saying so */
  uint64_t bad;     /* messages that are none of ours */
  uint64_t connects, bytes_in, bytes_out;
  mf_pool_times times; /* from call to answer */
} mf_far_info;
MF_API int mf_far_stats(const mf_far *, mf_far_info *);

typedef struct mf_far_node {
  char id[32], name[72];
  unsigned window, held; /* as it has announced */
  unsigned workers;
  unsigned running; /* calls of ours */
  int draining, failed;
  uint64_t silent_ms; /* since its last sign of life */
  uint64_t calls;     /* that it has taken in all */
} mf_far_node;
/* The nodes that are known, at most n; gives how many there are. size:
 * sizeof(mf_far_node). */
MF_API size_t mf_far_nodes(const mf_far *, mf_far_node *nodes, size_t size, size_t n);

/* ---- stored jobs: calls that outlive their caller ----
 *
 * A job is a request that the engine stores (JetStream) until a node with `jobs` has
 * worked at it; its result is stored, too. It runs at least once, perhaps more often: the
 * function has to bear that. There is one result. doc/nats.md has the promises. */
typedef struct mf_job_options { /* start from MF_JOB_OPTIONS_INIT */
  size_t size;
  const char *id; /* NULL: one that no other job has. Any bytes, at most 128. What is
                     posted with the id of a job that waits, works or has a result is that
                     job, whatever it says */
  size_t id_length;
  uint64_t delay_ms; /* it waits at least so long; by the clocks of caller and node */
  unsigned tries;    /* it may be begun so often; 5 */
  unsigned lease_ms; /* another node gets it when the one that has it gives no sign for so
                        long; 30,000, at least 100 */
  unsigned timeout_ms; /* until it is stored; 0: as the far pool says, or 10,000 */
} mf_job_options;
#define MF_JOB_OPTIONS_INIT                                                              \
  { sizeof(mf_job_options), NULL, 0, 0, 5, 30000, 0 }
MF_API void mf_job_options_init(mf_job_options *options);

/* Without an error the job is stored, or was before. With one, error->started NO says
 * that it is not, and UNKNOWN that it may be: the id, which is given in both cases, can
 * be asked for. */
typedef void (*mf_posted_cb)(const mf_error *error, const char *id, size_t length,
                             void *data);
/* Stores a job. NULL options: the defaults. MF_EINVAL: an option that can't be used, or
 * the request has descriptors; MF_ECLOSED. */
MF_API int mf_far_post(mf_far *, const mf_message *request, const mf_job_options *,
                       mf_posted_cb, void *data);
/* Waits for the result of a job: what the function returned, or, when its tries are used
 * up or it was cancelled, an error. MF_ETIMEOUT: there was none in timeout_ms
 * (MF_NO_TIMEOUT: for ever; 0: looks once). A drain ends it with MF_ECANCELLED. */
MF_API int mf_far_result(mf_far *, const char *id, size_t length, unsigned timeout_ms,
                         mf_reply_cb, void *data);
/* taken 1: the job waited, and nobody will begin it; its result is MF_ECANCELLED. 0: it
 * is unknown, over, or at work; the latter goes on, and a try that fails is its last. */
typedef void (*mf_job_cancelled_cb)(const mf_error *error, int taken, void *data);
MF_API int mf_far_cancel_job(mf_far *, const char *id, size_t length, unsigned timeout_ms,
                             mf_job_cancelled_cb, void *data);
/* A job whose tries are used up, with the error of the last. All callers of the subject
 * are told of those that die from now on; they are also stored in STREAM_dead. A NULL
 * callback ends it. */
typedef void (*mf_dead_cb)(const char *id, size_t length, uint64_t tries,
                           const mf_error *error, void *data);
MF_API int mf_far_on_dead(mf_far *, mf_dead_cb, void *data);
typedef struct mf_jobs_info {
  char stream[65];
  uint64_t waiting;       /* for a node */
  uint64_t delayed;       /* for their time */
  uint64_t running;       /* with a node */
  uint64_t redelivered;   /* of those, not for the first time */
  uint64_t results, dead; /* that are kept */
  uint64_t leftover; /* messages that no consumer will deliver: those of jobs that are
                        being removed, and those that a server kept over a crash */
} mf_jobs_info;
typedef void (*mf_jobs_cb)(const mf_error *error, const mf_jobs_info *info, void *data);
/* How many jobs there are. */
MF_API int mf_far_jobs(mf_far *, unsigned timeout_ms, mf_jobs_cb, void *data);

/* Gives up at once: all calls get MF_ECANCELLED. mf_far_close is due. */
MF_API void mf_far_abort(mf_far *);
typedef void (*mf_far_close_cb)(mf_far *, void *data);
/* Needed once: as mf_far_drain without a time limit, then the callback (or NULL), after
 * which the pointer is invalid, and no thread, descriptor or handle of it is left. */
MF_API void mf_far_close(mf_far *, mf_far_close_cb, void *data);

#ifdef __cplusplus
}
#endif
#endif
