/* The record of a far pool, for its own files: caller.c (calls and their ends),
 * caller_nodes.c (nodes and messages), caller_life.c (beginning, closing, what it says).
 * Runs in the parent. */
#ifndef NATS_CALLER_PRIVATE_H
#define NATS_CALLER_PRIVATE_H

#include "base/idmap.h"
#include "base/minheap.h"
#include "nats/call_times.h"
#include "nats/engine.h"
#include "nats/job_caller.h"
#include "nats/listed.h"
#include "nats/room.h"
#include <moonfork/nats.h>

enum {
  BATCH_BYTES = 48 * 1024, /* of calls that travel in one message */
  RUNS_MAX = 2,            /* of an idempotent call, besides the first */
  CHUNK_GRACE_MS = 1500,   /* that a node has to say how far a chunk came */
  FIRST_MS = 2000,         /* that a call waits for an engine that was never reached, and
                            * for a node of this version where there are only others */
  AGAIN_MS = 10000         /* that one without a time limit waits for one that was lost */
};

enum far_call_state {
  CALL_WAITS, /* in far->waiting */
  CALL_SENT,  /* in its node's calls */
  CALL_LEFT   /* the same, but its callback has come: its answer is dropped */
};

/* A chunk of items, and what is known of it. */
struct far_chunk {
  struct chunk_record *record; /* that tells whoever made it; NULL: none */
  uint32_t n;                  /* items */
  uint32_t entered;            /* so many may have been */
  int overdue;                 /* its time is over, and its node is waited for */
  struct buf answers;          /* a header, and those that have come */
};

struct far_call {
  struct list link;
  struct list cancel_link;      /* in far->cancelled where somebody cancelled it */
  struct minheap_node deadline; /* in far->deadlines where it has a time limit */
  enum far_call_state state;
  mf_far *far;
  uint64_t id;        /* for mf_far_cancel */
  uint64_t sent_id;   /* of this attempt; 0: none */
  uint64_t batch;     /* the message that it was in */
  uint64_t looked_ms; /* when it was sent, or asked about last */
  struct far_node *node;
  unsigned places;                    /* that it takes at its node */
  struct far_chunk *chunk;            /* NULL: it is a call */
  unsigned runs;                      /* how often it may have run already */
  int idempotent, cancelled, counted; /* counted: it was there when the drain began */
  uint64_t begun_ns;
  mf_reply_cb cb;
  void *data;
  size_t length;
  unsigned char bytes[];
};

struct far_node { /* room_node's user */
  struct room_node *room;
  struct list calls;
  struct buf out; /* the message that is being filled */
  uint64_t batch; /* its number; 0: it is empty */
};

struct mf_far {
  uv_loop_t *loop;
  struct engine *engine;
  struct job_caller *jobs; /* NULL: it is closing */
  uv_timer_t expiry;       /* the first deadline */
  uv_timer_t tick;         /* while nodes are known, or calls wait for an engine */
  unsigned handles;
  char subject[SUBJECT_MAX + 1], inbox[64], reply[64];
  unsigned timeout_ms, queue_max, silent_ms;
  uint64_t queue_bytes_max, queue_bytes;
  struct list waiting, cancelled;
  size_t nwaiting, nsent, nleft;
  struct idmap ids, sent;
  struct minheap deadlines;
  struct room room;
  struct { /* of another version, heard last; version -1: none is there */
    int version;
    uint64_t heard_ms;
    struct node_beat node;
  } other;
  uint64_t batches;
  uint64_t down_ms; /* since when there is no engine */
  int draining, drained, aborted, closing, checking;
  mf_far_cb on_drained;
  void *drained_data;
  uint64_t drain_by; /* UINT64_MAX: no limit */
  int drain_late;    /* the time is over */
  mf_far_close_cb on_closed;
  void *closed_data;
  mf_drain_report report;
  mf_far_info info; /* its counters */
  struct call_times times;
  struct nats_listed listed;
};

/* caller.c */
/* Ends a call: one of error and reply is NULL. */
void far_finish(struct far_call *c, const mf_error *error, const mf_message *reply);
/* Told now. Where a node has it, its place there is free when that says so. */
void far_give_up(struct far_call *c, int code, const char *text);
void far_cancel_waiting(mf_far *far); /* tells those that were cancelled */
void far_fail(struct far_call *c, int code, int started, const char *text);
/* It was not entered: it waits again, before the others. */
void far_requeue(struct far_call *c);
/* Its node is gone, or the connection. */
void far_lose(struct far_call *c, int code, const char *text);
void far_dispatch(mf_far *far);
void far_schedule(mf_far *far);
void far_look_at_engine(mf_far *far); /* calls have waited for it long enough? */
/* There are nodes, but of another version only? Calls do not wait long for others. */
void far_look_at_versions(mf_far *far);
size_t far_pending(const mf_far *far);
void far_call_free(struct far_call *c);

/* caller_nodes.c */
int far_listen(mf_far *far);
void far_send(struct far_call *c, struct room_node *n);
void far_cancel_sent(struct far_call *c);
void far_leave(struct far_call *c);                   /* its node has it no more */
void far_drop_nodes(mf_far *far, const char *reason); /* the connection is gone */
void far_forget_nodes(mf_far *far);                   /* frees */
void far_tick(mf_far *far);
void far_hello(mf_far *far); /* asks who is there */

/* caller_chunks.c */
/* Copies what it needs of the chunk m. 0, MF_EINVAL: it is none, or its descriptor is not
 * a record; -ENOMEM or another -errno. */
int far_chunk_new(const mf_message *m, struct far_chunk **ret);
void far_chunk_free(struct far_chunk *chunk);
/* It goes to a node, perhaps not for the first time. 0 or -ENOMEM. */
int far_chunk_begin(struct far_chunk *chunk);
/* ITEMS. 0; -EPIPE: a message with those before it was lost; -EPROTO: no honest node says
 * so, or so much; -ENOMEM. */
int far_chunk_items(const mf_far *far, struct far_chunk *chunk,
                    const struct envelope_record *r);
/* CHUNKED: it is over. 0; as far_chunk_items where answers are missing: a message with
 * the last ones was lost, and what became of their items nobody knows. */
int far_chunk_end(struct far_chunk *chunk, const struct envelope_record *r);
/* CHUNKED without an error: the reply, borrowed from the chunk. */
void far_chunk_reply(struct far_chunk *chunk, const struct envelope_record *r,
                     mf_message *ret);
/* An error is about to be told: the record says which items were answered and entered. */
void far_chunk_tell(const struct far_chunk *chunk, const mf_error *e);

/* caller_life.c */
int far_check(const mf_far *far); /* 0, MF_EINVAL or MF_EFORKED */
int far_new(struct uv_loop_s *loop, const mf_nats_options *given, mf_far **ret);
void far_check_drained(mf_far *far);
void far_watch(mf_far *far); /* starts or stops the tick */
/* A node for a person; also one that no caller keeps (user NULL). */
void far_describe_node(const struct room_node *n, mf_far_node *ret);

#endif
