/* The command that leads to the agent: started, listened to, ended. Runs in the near end.
 */
#ifndef REMOTE_COMMAND_H
#define REMOTE_COMMAND_H

#include "base/buf.h"
#include "remote/local.h"
#include "remote/turn.h"
#include <sys/types.h>
#include <uv.h>

struct link_command {
  pid_t pid; /* 0: it has ended, and been reaped */
  int status;
  int input, output;   /* our ends of its standard input and output */
  struct local errors; /* of its standard error; closed at its end */
  struct local own;    /* our standard error */
  struct buf kept;     /* what it wrote there: until it is accepted, or written on */
  int greeted, accepted;
  uv_signal_t children;
  struct turn *turn;
  struct turn_watch errors_ready, own_ready;
  uv_timer_t patience;
  int ending, nsignals;
  void (*print)(const char *text, size_t n); /* what it writes before it is accepted */
  void (*on_change)(struct link_command *c); /* it has ended, or its standard error has */
};

/* 0 or -errno: of the exec. */
int command_start(struct link_command *c, struct turn *turn, char **argv,
                  void (*print)(const char *text, size_t n),
                  void (*on_change)(struct link_command *c));
/* The agent has greeted: what the command writes to its standard error is written on. */
void command_accept(struct link_command *c);
/* It has ended, and all that it wrote is read. */
int command_is_over(const struct link_command *c);
/* "the command ended with exit status 3" and the like. */
void command_describe(const struct link_command *c, char *text, size_t n);
/* Ends it, and then this process. gently: it gets some time to notice. One that was not
 * accepted ends with all that it has started in its process group. */
void command_end(struct link_command *c, int gently);

#endif
