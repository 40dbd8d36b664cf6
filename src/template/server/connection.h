/* The template's end of a control socket: whole frames in, answers out, and the count of
 * commands. One recvmsg or sendmsg at a time; nothing here blocks but
 * connection_flush_all and, when it is told to, connection_receive. Runs in templates and
 * in clones before run. */
#ifndef TEMPLATE_SERVER_CONNECTION_H
#define TEMPLATE_SERVER_CONNECTION_H

#include "base/buf.h"
#include "wire/inbox.h"

/* Unsent answers past which no more commands are read. */
enum { CONNECTION_OUT_MAX = 8 * 1024 * 1024, CONNECTION_OUT_HIGH = 1024 * 1024 };

struct connection {
  int fd;     /* owned; -1: nobody listens any more */
  int intake; /* fd is this until the socket is needed (bare.h); -1: it is one */
  struct inbox in;
  struct buf out;
  uint64_t executed, told; /* commands; how many of them DONE has told */
  int write_closed;        /* the parent takes nothing any more */
};

/* Takes fd. What is received goes to room, which lives as long as c, while it fits. */
void connection_open(struct connection *c, int fd, void *room, size_t n);
/* First thing in a clone: the template's socket and every waiting descriptor are closed,
 * unsent answers forgotten, the count begins at 0. The bytes of the frame under way stay
 * readable until connection_forget_input. */
void connection_forked(struct connection *c);
/* The clone's own socket (taken). */
void connection_adopt(struct connection *c, int fd);
/* The same without a socket yet: the intake (taken) has its number. */
void connection_adopt_intake(struct connection *c, int intake);
/* The socket is needed: it is made, if it is not there. 0 or -errno. */
int connection_need(struct connection *c);
/* What was read and not executed is forgotten. */
void connection_forget_input(struct connection *c);

/* The next whole frame: 0, MF_AGAIN or -EPROTO, as inbox_next. */
int connection_next(struct connection *c, struct frame *ret_f);
/* Moves the frame's descriptors into fds (empty). 1 when the kernel dropped some of them,
 * else 0. */
int connection_take_fds(struct connection *c, const struct frame *f, struct fdset *fds);
/* Reads once; sleep: waits until something comes. 0: something came; MF_AGAIN; MF_EOF;
 * -ENOMEM, -EPROTO or another errno. */
int connection_receive(struct connection *c, int sleep);

/* Queues an answer; parts are joined to one body. 0, or -ENOMEM/-E2BIG. */
int connection_answer(struct connection *c, unsigned type, uint64_t id, const void *body,
                      size_t length);
/* Writes everything and then an answer without a body, waiting as long as it takes. Takes
 * no memory, and touches none of the buffers when nothing else is to be written. 0 or
 * -EPIPE. */
int connection_say(struct connection *c, unsigned type, uint64_t id);
/* The command under way needs no DONE, unless one is due anyway. Before it is counted. */
void connection_tell_nothing(struct connection *c);
/* Queues DONE when it has news. */
int connection_tell_done(struct connection *c);
/* Writes what goes now. 0: all is written (or nobody listens), MF_AGAIN. */
int connection_flush(struct connection *c);
/* Writes everything, waiting as long as it takes. 0, or -EPIPE: nobody takes it. */
int connection_flush_all(struct connection *c);

#endif
