/* Whether a process has come to be, lives, or has ended, decided from what is known of
 * it: numbers in, a verdict out. Pure. Runs in the parent. death.c collects the numbers,
 * asks at each event that may have changed one, and acts. */
#ifndef PARENT_LIVENESS_H
#define PARENT_LIVENESS_H

enum life_kernel { /* what the kernel says of the process that we know by number or pidfd
                    */
                   LIFE_KERNEL_MUTE, /* we know none, or nobody will ever tell */
                   LIFE_KERNEL_LIVES,
                   LIFE_KERNEL_GONE,  /* it has ended; its status can't be had, or not yet
                                       */
                   LIFE_KERNEL_STATUS /* it has ended, and this is how */
};

enum life_source {                       /* the process that was told to fork it */
                   LIFE_SOURCE_NONE,     /* there is none: it was executed, or taken up */
                   LIFE_SOURCE_SERVES,   /* it may still have to execute the fork */
                   LIFE_SOURCE_EXECUTED, /* it has */
                   LIFE_SOURCE_ENDED     /* it executes nothing any more */
};

struct life {
  enum life_kernel kernel;
  enum life_source source;
  int hung_up;  /* its socket has ended, and was read to the end */
  int spoke;    /* it has written something itself */
  int numbered; /* a number stands in its slot, believed or not */
  int unheard;  /* its socket is the user's: nothing more will be heard from it */
  int nlooks;   /* how often a status was looked for in vain since it has ended */
};

enum life_verdict {
  LIFE_NOTHING, /* an event will come by itself */
  LIFE_WAIT,    /* look again after wait_ms, if nothing comes before */
  LIFE_DEAD,
  LIFE_NEVER_STARTED /* there was no such process */
};

enum {
  LIFE_LOOKS_MAX = 20,
  LIFE_LOOK_MS = 2,    /* for a status that somebody else has to release */
  LIFE_GRACE_MS = 2000 /* a process that hung up runs nothing, and must end */
};

enum life_verdict life_decide(const struct life *l, unsigned *ret_wait_ms);

#endif
