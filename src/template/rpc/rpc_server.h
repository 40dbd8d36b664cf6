/* The server of an rpc: what "moonfork.rpc:serve" does with the socket that run gives it,
 * and the modules moonfork.rpc and moonfork.pool. Runs in clones.
 *
 *   serve --HELLO--> init --READY--> a call after the other (rpc_sync.c)
 *                                 |    or an item of a chunk after the other: rpc_chunk.c
 *                                 \-> luv's loop, calls beside each other (rpc_async.c)
 *
 * rpc_serve.c starts it, by what is here.
 *
 * There is one in a process. A synchronous one needs nothing but the socket and leaves by
 * returning; an asynchronous one leaves from inside of luv's loop. */
#ifndef TEMPLATE_RPC_SERVER_H
#define TEMPLATE_RPC_SERVER_H

#include "codec/serialiser.h"
#include "template/rpc/rpc_link.h"
#include "template/server/failure_record.h"
#include <lua.h>
#include <sys/types.h>

enum rpc_server_state { RPC_SERVER_NONE, RPC_SERVER_INIT, RPC_SERVER_SERVING };

struct rpc_server {
  enum rpc_server_state state;
  pid_t pid;      /* a process that user code has forked is no server */
  unsigned flags; /* enum rpc_flags */
  struct rpc_link link;
  struct serialiser serialiser;
  const char *serialiser_name;         /* not opened yet, or NULL */
  int function;                        /* registry reference */
  struct buf out, event_out;           /* bodies under way */
  struct codec_fds out_fds, event_fds; /* and their handles */
  struct failure_record failure;       /* what the call under way raised */
  uint64_t usage_interval_ns, usage_next_ns;
  uint64_t batch_since_ns; /* when the oldest answer was queued; 0: none is */
  unsigned quick;          /* calls in a row that took next to no time */
  unsigned unanswered;     /* asynchronous: calls entered */
  struct buf dropped;      /* u64 numbers of calls whose done was collected */
  int offering;            /* the body of the call under way to the heap, as a string */
  struct gather *placing;  /* where that body lies while it is decoded, or NULL */
  int ended, retired;      /* END has come; RETIRE was sent */
  int uncaught; /* luv is about to end the process: the server's failure says why */
};

/* The one of this process or thread, also where none serves. NULL: no memory for a
 * thread's. */
struct rpc_server *rpc_server_self(void);
/* The same if it serves, or NULL. */
struct rpc_server *rpc_server_serving(void);

/* Pushes the arguments of the call: how many, or e->code. May raise; rpc_server_complete
 * then settles what is left. */
int rpc_server_decode(struct rpc_server *s, lua_State *L, const struct rpc_call *call,
                      struct codec_error *e);
/* Results are on the stack from first on: queues RESULT, or ERROR where they can't go. */
void rpc_server_answer(struct rpc_server *s, lua_State *L, uint64_t id, int first);
/* Packs them into s->out and s->out_fds: 1; or 0, and s->failure has the reason. */
int rpc_server_encode(struct rpc_server *s, lua_State *L, int first);
/* Queues USAGE where it is due; behind an answer. */
void rpc_server_put_usage(struct rpc_server *s);
/* Queues ERROR with s->failure. entered: whether the function was. */
void rpc_server_refuse(struct rpc_server *s, uint64_t id, int entered);
/* 0: the kernel dropped handles of the call, and it was answered so. */
int rpc_server_begin(struct rpc_server *s, const struct rpc_call *call);
/* Puts the reason into s->failure. */
void rpc_server_fail_at(const char *origin, struct rpc_server *s, int code,
                        const char *text);
#define rpc_server_fail(...) rpc_server_fail_at(ORIGIN, __VA_ARGS__)
/* The same for what the serialiser said. */
void rpc_server_fail_codec(struct rpc_server *s, const struct codec_error *e);
/* A message handler for lua_pcall: message and traceback go to s->failure. */
int rpc_server_on_error(lua_State *L);
/* What on_error could not tell, because there was no memory. */
void rpc_server_complete(struct rpc_server *s, int status);
/* For the serialiser of a server: codec_limits' push_last. */
int rpc_server_push_last(lua_State *L, const char *text, size_t n, void *server);
/* Queues the server's failure in a frame of that type. */
void rpc_server_put_failure(struct rpc_server *s, unsigned type, uint64_t id);
/* fds where the parent takes handles, else NULL. */
struct codec_fds *rpc_server_handles(struct rpc_server *s, struct codec_fds *fds);
/* Writes what is queued, waiting for room. 0, or negative: the parent is gone. */
int rpc_server_send(struct rpc_server *s);

#endif
