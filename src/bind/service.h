/* A service: an rpc, or a pool, behind a userdata. Runs in the parent.
 *
 *   userdata -> service -> mf_rpc or mf_pool
 *                  ^---- one for the library until its close callback, and one for each
 *                        reply or event that waits to be popped
 */
#ifndef BIND_SERVICE_H
#define BIND_SERVICE_H

#include "base/buf.h"
#include "bind/foreign.h"
#include "bind/lua_process.h"
#include "codec/serialiser.h"

struct reply;

struct service {
  struct resident resident;  /* while the library has it */
  struct trash trash;        /* ref: the cell, a table with the callbacks */
  struct trash functions[2]; /* refs of the serialiser */
  struct reactor *reactor;
  struct service **box; /* the userdata's; NULL: it is gone */
  mf_rpc *rpc;
  mf_pool *pool;
  void *foreign;                 /* one of them, or none: closed */
  const struct foreign_ops *ops; /* of a foreign one */
  struct proc *proc;             /* the process of an rpc: held */
  unsigned holds;
  struct reply *reading; /* the one that is read in steps, or NULL */
  struct list behind;    /* what waits for it */
  struct list *blocked;  /* behind, while one is read, or NULL */
  int closing;
  int waited_for; /* a foreign one: loop() waits until it has closed */
  int tells_end;  /* somebody is told when its close is over */
  struct serialiser serialiser;
  struct buf out; /* the call under way */
  struct codec_fds fds;
};

void service_open(lua_State *L); /* registers the metatable */
/* Pushes an empty userdata for the cell at index cell; options: where the table is that o
 * was read from. Sets o's data. NULL: no memory, nil and an error are pushed. May raise.
 */
struct service *service_push(lua_State *L, struct reactor *r, int cell, int options,
                             mf_rpc_options *o);
/* The library has taken it, or not: rc. The userdata is on top. -> it; or nil, error */
int service_fill(lua_State *L, struct service *s, int rc);
/* The service at idx. Raises where it is closed. */
struct service *service_check(lua_State *L, int idx);
/* The same, but NULL where the library has closed it. */
struct service *service_check_any(lua_State *L, int idx);
void service_unhold(struct service *s);
/* What fork.dump shows of those of other modules. */
void services_dump(const struct reactor *r, FILE *out);

#endif
