/* What the files of drive (drive.c) share: the ledger of what was asked, the objects that
 * there are, and what is done with them. */
#ifndef DRIVE_H
#define DRIVE_H

#include "round.h"
#include <fcntl.h>
#include <moonfork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

enum {
  PROCS = 14,
  RPCS = 4,
  POOLS = 2,
  SOCKETS = 64,
  STEPS = 160,
  DEPTH_MAX = 3,
  FDS_MAX = 1024,
  CLOSE_S = 16,   /* an rpc waits 10 s for its answers, then kills */
  QUIET_MS = 100, /* in which nobody may use more than */
  QUIET_CPU_MS = 6,
  LATE_MS = 2000, /* beyond a deadline that a callback may come */
  STALL_MS = 300, /* of processor time in one turn */
  MEMORY_MB = 500
};

extern const char *program; /* the hostile one, or NULL */
extern double slowness;     /* of this machine, or of a sanitizer */
extern int inside;          /* a call of the library is under way */
extern int depth;           /* of callbacks that act */
extern int closing_all;
extern int somebody_hangs; /* and uses a processor */
extern uv_loop_t *loop;

#define FAIL(...)                                                                        \
  do {                                                                                   \
    fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                      \
    fprintf(stderr, __VA_ARGS__);                                                        \
    fprintf(stderr, "\n");                                                               \
    abort();                                                                             \
  } while (0)
#define CHECK(x)                                                                         \
  do {                                                                                   \
    if (!(x))                                                                            \
      FAIL("%s", #x);                                                                    \
  } while (0)
#define CALL(x) call_end(#x, (inside++, (x)))
#define DO(x) CALL(((x), 0))

extern int telling; /* each call is printed */
extern double began;

int call_end(const char *what, int r);

/* What was asked: its callback is due once, before the owner's close callback. */
struct ask {
  struct ask *next;
  const char *what;
  struct owner *owner;
  double due; /* 0: whenever */
  int told;
  int quiet; /* it may wait for ever: an exit, an error */
  int spare; /* it need not come at all */
};

struct owner { /* a process, an rpc or a pool */
  const char *kind;
  int open, closed; /* closed: its close callback has come */
  int number;
};

extern struct ask *asks;
extern int nowners;

struct ask *ask_new(const char *what, struct owner *owner);

/* The call refused it: nothing is due. */
void ask_settle(struct ask *a, int r);
void tell(const char *what, const struct owner *o);
int nasked(int quiet_too);

/* Its callback has come. */
void ask_told(struct ask *a);
void check_error(const mf_error *e);

struct proc {
  struct owner owner;
  mf_process *p;
  struct ask *exit, *error; /* another one replaces it */
  int taken;                /* an rpc or a pool has it */
  int has_threads;          /* perhaps: what was forked from it */
};

struct rpc {
  struct owner owner;
  mf_rpc *rpc;
  uint64_t last;
  int nerrors, ncloses;
};

struct pool {
  struct owner owner;
  mf_pool *pool;
  uint64_t last;
  int has_threads;
};

extern struct proc *procs[PROCS];
extern struct rpc *rpcs[RPCS];
extern struct pool *pools[POOLS];

enum { KEPT_MAX = 4096 };

extern void *kept[KEPT_MAX]; /* freed at the end: callbacks may point into them */
extern struct owner *owners[KEPT_MAX]; /* the first member of some of them */
extern int nkept;
extern int sockets[SOCKETS], nsockets;

void free_later(void *p, struct owner *owner);
void close_socket(int i);

/* In a callback: does something, perhaps. */
void maybe_act(void);
void on_run(mf_process *p, const mf_error *e, int fd, void *data);
void on_exit_told(mf_process *p, const mf_exit *s, void *data);
void on_error_told(mf_process *p, const mf_error *e, void *data);
void on_memory(mf_process *p, const mf_error *e, const mf_memory_info *m, void *data);
void on_proc_closed(mf_process *p, void *data);
void on_reply(const mf_error *e, const mf_message *m, void *data);
void on_event(const mf_message *m, void *data);
void on_trouble(const mf_error *e, void *data);
void on_rpc_end(void *data);
void on_rpc_closed(mf_rpc *rpc, void *data);
void on_pool_trouble(const mf_error *e, void *data);
void on_pool_told(mf_pool *pool, const mf_error *e, void *data);
void on_pool_closed(mf_pool *pool, void *data);
void on_release(void *data);

extern const char functions[];

const char *pick(const char *const *list, uint32_t n);
#define PICK(list) pick(list, sizeof list / sizeof *list)

const char *a_function(void);
const char *a_service(void);
size_t a_size(void);

extern unsigned char bytes[1100000];

int a_descriptor(void);
const char *some_code(void);
void some_options(mf_options *o);
void make_proc(void);
void fork_proc(void);
void prepare_proc(void);
void run_proc(void);
void adopt(void);
void ask_proc(void);
void close_proc(int i);
void make_rpc(void);
void use_rpc(void);
void close_rpc(int i);
void make_pool(void);
void use_pool(void);
void close_pool(int i);

/* One of the things that the driver does. */
extern void (*act)(void);

/* The loop for so many milliseconds at most, or until it is enough. */
void turn(unsigned ms, int (*enough)(void));
int everything_is_closed(void);

/* In the place of all this: drive_threads.c. */
void play_threads(void);

#endif
