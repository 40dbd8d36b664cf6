/* A world for the parent's core without a kernel: sockets, processes, a clock and a loop
 * that do what the test says, behind the backend. Deterministic: one thread, no time
 * passes but by sim_advance. Runs in unit tests. */
#ifndef HELP_SIM_H
#define HELP_SIM_H

#include "base/buf.h"
#include "parent/loop/backend.h"
#include "wire/frame.h"

enum { SIM_FD_BASE = 1 << 24, SIM_FDS = 4096, SIM_QUEUE = 64, SIM_MEMORIES = 1024 };

struct sim_fd {
  enum { SIM_FREE, SIM_SOCKET, SIM_PIDFD, SIM_MEMORY } kind;
  int peer;      /* socket: index of the other end */
  int closed;    /* by its holder */
  int sent;      /* travels, or has travelled, to another process */
  int refused;   /* its holder wants to read no more */
  int silent;    /* its holder will write no more */
  int named;     /* its holder asked who writes */
  size_t flood;  /* so many bytes come again as soon as they are read, for ever */
  size_t nread;  /* bytes that its holder has read */
  struct buf rx; /* what the other end wrote */
  int fds[SIM_QUEUE], nfds; /* descriptors sent along, as indices */
  int pid;      /* pidfd; socket: who writes there, 0: the kernel does not tell */
  void *memory; /* shared */
  struct watch *watch;
};

struct sim {
  struct backend backend;
  uint64_t now_ms, timer_at_ms;
  int turn, busy, started, stopping, stopped;
  struct sim_fd fd[SIM_FDS];
  int nfd;
  int next_pid;
  int ended[SIM_FDS], status[SIM_FDS]; /* by pid: has it ended, how */
  int children[SIM_FDS];               /* pids of our children that were not reaped */
  int traced; /* a child whose end a debugger is told of first: not for us to reap yet */
  int nyields, npidfds;
  uint64_t yield_ns;
  int ends_meanwhile;  /* while others run: this process */
  int careless, thief; /* the host reaps what comes; that was noticed */
  int tells_status;    /* a pidfd tells the status of what others reaped */
  int share_error;
  struct {   /* shared memory as templates know it */
    int far; /* the template's end */
    uint32_t first, count;
    uint32_t *births;
    void *words;
  } slots[SIM_MEMORIES];
  int nslots, nshared;
  void *memories[SIM_MEMORIES];
  int nmemories;
  int last_signal, last_signal_pid;
  int last_group,
      last_group_signal;    /* a signal to a whole group, and whether its leader */
  int last_group_unreaped;  /* was ours to reap at that time */
  int last_group_by_number; /* its number may have been used */
  void (*on_kill)(struct sim *s, int pid, int signum);   /* or NULL */
  void (*on_spawn)(struct sim *s, int pid, int control); /* or NULL */
  void (*on_refuse)(struct sim *s, int fd); /* just before that counts; or NULL */
  void *far_data;
  int spawn_error, pair_error, pidfd_error, send_error; /* to be returned, once set */
  int spawned_control; /* index of the control end given to the last spawned program */
  int slow_measures, nmeasures; /* memory is told on the next turn; measures under way */
  size_t send_limit;            /* most bytes one send takes; 0: all */
  int full;                     /* sends take nothing for now */
  size_t room;                  /* bytes that are taken before it is full; 0: no matter */
  volatile int inside;          /* the world works, whose own memory never runs out */
};

struct sim *sim_new(void);
/* Checks that nothing is left open by the core, and frees. Returns the number of
 * descriptors that the core did not close. */
int sim_free(struct sim *s);
/* One turn: what is due. 1 when something was. */
int sim_step(struct sim *s);
/* Turns until nothing is due. */
void sim_run(struct sim *s);
void sim_advance(struct sim *s, uint64_t ms);

/* The other side. */
int sim_far_end(struct sim *s, int near_fd); /* index of the far end of a core's fd */
void sim_answer(struct sim *s, int far, unsigned type, uint64_t id, const void *body,
                size_t length);
void sim_bytes(struct sim *s, int far, const void *data, size_t n);
void sim_hang_up(struct sim *s, int far);
void sim_end_process(struct sim *s, int pid, int status);
/* The process at `far` executes that FORK: the clone is pid. 1: it is our child, whose
 * number stands in its slot; 0: it is the template's. */
int sim_fork(struct sim *s, int far, const struct frame *fork, const int *fds, int pid);
/* Where the number of that clone stands. */
volatile uint32_t *sim_birth(struct sim *s, int far, const struct frame *fork);
/* Where the id of the FORK stands once the function of that clone has returned. */
volatile uint64_t *sim_returned(struct sim *s, int far, const struct frame *fork);
/* Leaves last words in the slot that the FORK names. */
void sim_last_words(struct sim *s, int far, const struct frame *fork, const char *text);
/* The next whole command that the core wrote to this end. 0: none. Its descriptors'
 * indices go to ret_fds. body is valid until the next call for that end. */
int sim_command(struct sim *s, int far, struct frame *ret, int *ret_fds);

#endif
