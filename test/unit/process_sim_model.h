/* Templates and clones of test_process_sim.c: what they do with commands at a random
 * moment, how they lie and how they die. */
#ifndef PROCESS_SIM_MODEL_H
#define PROCESS_SIM_MODEL_H

#include "help/sim.h"
#include <moonfork.h>
#include <stdio.h>
#include <stdlib.h>

enum { NODES = 300, USERS = 40, STEPS = 120, REQUESTS = 4 };

/* A process of the model. */
struct node {
  int used, pid, far;
  uint64_t id; /* of the FORK */
  uint64_t executed, told;
  int phase; /* serving, closing, failed, running, dead */
  int status;
  int no_siblings;  /* its clones are its own children */
  int lies;         /* it writes what it likes where the pids of clones are to stand */
  struct buf inner; /* frames from the fork */
  int is_inner;     /* its command was one of them */
  volatile uint64_t *returned; /* where it may tell that its function has returned */
  int copied; /* the far end that a copy of the program has, too, after its end; or 0 */
  int ran;    /* entered a function */
};
enum { N_SERVING, N_CLOSING, N_FAILED, N_RUNNING, N_RETURNED, N_DEAD };

/* A handle of the user's. */
struct user {
  struct world *w;
  mf_process *p;
  int used, closed, close_told;
  int want_finish, finish_told, finish_ok, started, is_run;
  int want_exit, exit_told, asked_late; /* run was asked after the exit was told */
  int want_error, error_told;
  int nwanted, ntold; /* requests for memory */
  int dead_told;      /* all have ended and nobody closed: no more to be told */
  int pid;            /* of one that was reported as not started */
};

struct world {
  struct sim *sim;
  struct context *context;
  struct node node[NODES];
  int nnode;
  struct user user[USERS];
  int nuser, in_call, short_of_memory, leaving;
  int liars;   /* templates may lie: then only what is done to others counts */
  int returns; /* functions may return before *running* is due */
  uint32_t rng;
};

#define CHECK(x)                                                                         \
  do {                                                                                   \
    if (!(x)) {                                                                          \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                            \
      abort();                                                                           \
    }                                                                                    \
  } while (0)

uint32_t rnd(struct world *w, uint32_t n);
/* NULL: there are too many. */
struct node *node_new(struct world *w, int far, uint64_t id);
struct node *node_by_pid(struct world *w, int pid);
void node_die(struct world *w, struct node *n, int status);
/* Does one thing, or nothing. */
void node_step(struct world *w, struct node *n);

#endif
