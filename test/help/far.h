/* The far side of the simulated world: templates that fork when told, clones that run the
 * server of rpc, each doing what the test says and when. Runs in unit tests. */
#ifndef HELP_FAR_H
#define HELP_FAR_H

#include "sim.h"
#include "wire/rpc_proto.h"

enum { FAR_NODES = 2000, FAR_CALLS = 8192 };

enum far_kind { FAR_TEMPLATE, FAR_WORKER, FAR_DEAD };

struct far_node {
  enum far_kind kind;
  int pid, fd, parent; /* fd: index of its end, -1: none; parent: node, -1: our child */
  uint64_t id;         /* of the FORK */
  uint64_t executed;
  int told;                     /* forked was answered */
  int failing;                  /* a template: its next command fails */
  int hello, ready, ended, bye; /* worker: said, said, END has come, said */
  int async;
  uint64_t call[FAR_CALLS]; /* numbers that came and were not answered, in order */
  uint64_t word[FAR_CALLS]; /* the first 8 bytes of their bodies */
  uint32_t length[FAR_CALLS];
  int ncalls;
  uint64_t got; /* calls ever */
};

struct far {
  struct sim *sim;
  struct far_node *node[FAR_NODES];
  int n;
  int slow_hello;                 /* workers say HELLO and READY only when told */
  int deaf;                       /* nobody reads */
  int fork_failures;              /* so many forks fail */
  int broken_loads;               /* so many evals fail */
  int killed[FAR_NODES], nkilled; /* pids that were sent SIGKILL */
  void (*on_evaluated)(struct far *f, struct far_node *n, const char *code,
                       size_t length);
  void *data;
};

struct far *far_new(struct sim *sim);
void far_free(struct far *f);
/* Everybody does what is to be done, the loop turns, until nothing changes. */
void far_run(struct far *f);
/* Signals reach whom they are for. 1: some did. */
int far_notice(struct far *f);
/* One node reads what has come for it. 1 when something had. */
int far_read(struct far *f, struct far_node *n);
void far_advance(struct far *f, uint64_t ms);
/* The i-th living worker, or NULL. */
struct far_node *far_worker(struct far *f, int i);
int far_nworkers(struct far *f);
struct far_node *far_by_pid(struct far *f, int pid);
/* What a worker says. */
void far_say(struct far *f, struct far_node *n, unsigned type, uint64_t id,
             const void *body, size_t length);
void far_ready(struct far *f, struct far_node *n); /* HELLO and READY */
void far_fail(struct far *f, struct far_node *n);  /* HELLO and FAILED, and ends */
void far_result(struct far *f, struct far_node *n, int i,
                const char *text); /* i-th call */
void far_error(struct far *f, struct far_node *n, int i, int entered);
/* It ends, by waitpid's status. */
void far_die(struct far *f, struct far_node *n, int status);

#endif
