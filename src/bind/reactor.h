/* The reactor: a private uv_loop_t of one Lua state, and what waits for Lua. Knows none
 * of those who use it: they are residents, and completions (completion.h). Runs in the
 * parent. */
#ifndef BIND_REACTOR_H
#define BIND_REACTOR_H

#include "base/blockpool.h"
#include "base/list.h"
#include "bind/bind.h"
#include "parent/private.h"
#include <sys/types.h>
#include <uv.h>

enum { REFS_KEPT = 64 };

struct trash { /* a registry reference and a block, freed together */
  struct list link;
  int ref;
  void *block;
  struct blockpool *pool; /* the block's; NULL: malloc's */
};

/* What has work on the loop, or a descriptor, and ends with the reactor. The end releases
 * them from the newest to the oldest, each taken off the list before; a forked copy
 * abandons them. */
struct resident {
  struct list link;
  void (*release)(
      struct resident *r); /* cancels what is under way; NULL: nothing to do */
  void (*abandon)(struct resident *r); /* closes descriptors, no more; NULL: has none */
};

struct reactor {
  uv_loop_t loop;
  int wake_closed;
  uv_async_t wake;       /* keeps the descriptor readable while completions wait */
  struct list done;      /* completions to pop */
  struct list residents; /* newest last */
  struct list trash;
  pid_t pid;            /* of the process that made it */
  int turned;           /* what libuv watches is known to the kernel */
  int exposed;          /* somebody else polls the descriptor */
  int attention;        /* a waiting call has its answer and has not looked yet */
  mf_process *attended; /* mf_attend is on for it; NULL: for none */
  unsigned nwatches, ntimers;
  unsigned nwork_watches, nwork_timers; /* those that are outstanding */
  unsigned nforeign; /* services of other modules: their timers are the loop's, too */
  unsigned nforeign_work; /* calls and the like of these, that are outstanding */
  struct date *date;      /* timer.c's, or NULL */
  int (*on_turned)(struct reactor *r); /* 1: turn once more; NULL: nobody asks */
  struct list reading; /* replies that are long and are read in steps (reply.c) */
  uint64_t read_until; /* when this turn has read enough of them, as proc_now_ns */
  size_t undelivered;  /* bytes of replies and events that wait in done or to be read */
  int nclosing;        /* objects whose close callback is due */
  int refs[REFS_KEPT], nrefs; /* references to nothing that are free */
  struct blockpool procs;     /* lua_process.c's */
  struct embedded *embedded;  /* NULL: none */
  void (*touch_embedded)(struct embedded *embedded);
};

/* Where callbacks are running (callback.h). */
struct callback_place {
  int level; /* how many are inside each other in the main coroutine */
  enum { CALLBACK_NOWHERE, CALLBACK_IN_MAIN, CALLBACK_ELSEWHERE } newest;
};

struct box {
  struct reactor *reactor; /* NULL: not needed yet */
  uv_loop_t *host;         /* use_loop's, or NULL */
  int (*open_embedded)(lua_State *L, struct reactor *r,
                       uv_loop_t *host); /* 0 or -errno */
  /* Makes something that ends the reactor when the state, or the clone, ends; NULL: the box
   * does that itself. May raise. */
  void (*keep)(lua_State *L);
  int closed;     /* the state is closing */
  int has_waiter; /* set_waiter: coroutines wait by a function of the program's */
  const void *object_class,
      *raw_class;        /* metatables: of process objects, raw processes */
  const lua_State *main; /* the main coroutine */
  struct callback_place callbacks;
};

/* The box of the state: upvalue 1 of every function of the module. */
struct box *box_get(lua_State *L);
/* The reactor, made on first use and after a fork; NULL where that fails, having pushed
 * `nil, error`: never after it was made in this process, as whoever has one of its
 * objects may rely on. Raises when the state is closing. */
struct reactor *reactor_get(lua_State *L);
/* The same, but NULL where there is none in this process yet. */
struct reactor *reactor_peek(lua_State *L);
struct reactor *reactor_of(const struct box *box);
int reactor_foreign(const struct reactor *r);
/* That of the objects in a copy of the interpreter (an image, a clone in a thread, a
 * pseudo-process), which has none of what they stand for: foreign in every process. */
extern struct reactor reactor_of_others;
/* Functions for the objects of the metatable on top: copied(object) is called for each in
 * such a copy; save(object) gives a text, why it can't be in an image, or nothing (NULL:
 * it always can). */
void reactor_copies(lua_State *L, lua_CFunction copied, lua_CFunction save);
/* The first loop of this process was made by a thread with descriptors of its own. */
int reactor_first_had_own_fds(void);
/* In a forked copy: closes what the process that it is a copy of had here, as the first
 * use would. Whether there was something. */
int reactor_let_go(lua_State *L);
/* One turn without waiting; calls no Lua. None where so much is undelivered that nothing
 * more should be taken in. */
void reactor_turn(struct reactor *r);
/* One, at any time, while the caller polls for the attended one. */
void reactor_turn_attending(struct reactor *r);
/* The loop need not watch the process, for a call that polls its socket begins; until the
 * loop turns, or another process is attended. */
void reactor_attend(struct reactor *r, mf_process *process);
void reactor_unattend(struct reactor *r, const mf_process *process); /* NULL: any */
/* Makes the descriptor readable when somebody should look. */
void reactor_arm(struct reactor *r);
/* Work was given to the library: a host's loop has to stay alive. */
void reactor_touch(struct reactor *r);
/* Completions wait, or replies are being read: Lua has to go on with them. */
int reactor_has_undelivered(const struct reactor *r);
/* Work under way that the library or this module knows of. */
int reactor_outstanding(struct reactor *r);
/* Milliseconds until it wants a turn, -1: none. 0 while completions wait. */
int reactor_timeout(struct reactor *r);
/* The same for other loops: 0 also while a suspended waiting call has its answer. */
int reactor_due(struct reactor *r);
/* As luaL_ref and luaL_unref in the registry, and cheaper. */
int reactor_ref(lua_State *L, struct reactor *r);
void reactor_unref(lua_State *L, struct reactor *r, int ref);
void reactor_discard(struct reactor *r, struct trash *t); /* freed at the next tidy */
void reactor_tidy(lua_State *L, struct reactor *r);
/* The end of the state: releases the residents and empties the loop. 1: it is empty, and
 * the reactor is for reactor_free; 0: never, and it is left as it is. */
int reactor_end(struct reactor *r);
void reactor_free(lua_State *L, struct reactor *r);
/* Pushes nil and an error: a loop can't be made. */
int reactor_refuse(lua_State *L, int rc);
/* In a forked copy: closes the loop's descriptors. The rest is left as it is. */
void reactor_abandon(struct reactor *r);
/* Once per forked copy and before anything else of the library is used there. */
void reactor_forked(void);

int bind_to_ms(lua_Number seconds); /* rounded up */
/* "r", "w" or "rw" as poll(2) has it. */
short bind_to_poll(const char *events);

#endif
