/* Frames over one control socket on a loop: writes at once what the kernel takes and the
 * rest when it is writable; reads whole frames, in bulk or exactly. Knows no frame's
 * meaning. Runs in the parent. */
#ifndef PARENT_LOOP_CHANNEL_H
#define PARENT_LOOP_CHANNEL_H

#include "parent/loop/backend.h"
#include "wire/inbox.h"
#include "wire/outbox.h"

struct channel;

/* Called from the loop, and from channel_drain and channel_flush (on_stalled). */
struct channel_events {
  /* A frame; its body is valid during the call. The handler may close the channel. */
  void (*on_frame)(struct channel *c, const struct frame *f);
  /* Nothing comes any more: 0 end of stream, -EPROTO a broken frame, else the errno of
   * the read. Everything that came before has been delivered. Once. */
  void (*on_end)(struct channel *c, int why);
  /* The socket is ready: to be answered by channel_ready, between what the owner does
   * before and after its events. */
  void (*on_ready)(struct channel *c, unsigned events);
  /* The kernel takes no more descriptors now (ETOOMANYREFS), or its memory is short:
   * flush again later. */
  void (*on_stalled)(struct channel *c);
  /* Frames enough for one turn were delivered and there may be more, which nothing tells
   * of now: channel_ready once more, on the next turn. */
  void (*on_more)(struct channel *c);
  /* What is queued never goes: to be dropped (context_drop_outbox). */
  void (*on_unsent)(struct channel *c);
  /* Who wrote what comes next, where channel_ask_writer has asked for it: once. Takes
   * pidfd
   * (-1: not told). */
  void (*on_writer)(struct channel *c, int pid, int pidfd);
};

struct channel {
  struct backend *backend;
  const struct channel_events *events;
  int fd; /* owned; -1: not open yet (frames are kept), or closed */
  struct watch watch;
  struct inbox in;
  unsigned char header[FRAME_HEADER_SIZE]; /* room of `in`: all that most clones say */
  struct outbox out;
  uint64_t nwritten;
  int asks_writer;  /* who writes is to be told */
  int reading;      /* frames are wanted */
  int ended;        /* on_end was called */
  int is_closed;    /* and not opened since */
  int corked;       /* frames are kept until somebody uncorks */
  int write_closed; /* the other end takes nothing any more */
  int nstalls;      /* tries to read that found no memory, in a row */
  int in_drain;     /* guards against recursion */
  int unread;       /* there was no memory to read what may be there */
  int refuses;      /* the kernel refuses descriptors while nobody accepts them */
  int takes_fds;    /* whoever gets the socket next does */
  int undrained;    /* the last drain left something unread */
  int attended;     /* its owner polls it: the loop need not watch for frames */
  int throttled;    /* it has had its frames for this turn: not watched until the next */
};

void channel_init(struct channel *c, const struct channel_events *events);
/* Starts on a socket (taken), watching for frames. 0, or -errno (the socket is closed).
 */
int channel_open(struct channel *c, struct backend *backend, int fd);
/* Has the next bytes tell who wrote them. Before the other end can write. 0 or -ENOSYS.
 */
int channel_ask_writer(struct channel *c, struct backend *backend, int fd);
/* Closes the socket, drops what is queued. */
void channel_close(struct channel *c);
/* Gives the socket to the caller, unwatched. */
int channel_steal(struct channel *c);
/* As outbox_put, then flushes. Takes fds. 0 or -ENOMEM. */
int channel_put(struct channel *c, unsigned type, uint64_t id, const void *body,
                size_t length, struct fdset *fds);
int channel_put_ref(struct channel *c, unsigned type, uint64_t id, const void *body,
                    size_t length, void (*release)(void *), void *release_data);
int channel_put_pieces(struct channel *c, unsigned type, uint64_t id,
                       const struct iovec *pieces, size_t n, struct fdset *fds,
                       void (*release)(void *), void *release_data);
void channel_flush(struct channel *c);
/* The owner polls channel_attended_fd (-1: nothing is to be read) and calls
 * channel_ready; or (off) the loop watches it, as it does from the beginning. */
void channel_attend(struct channel *c, int on);
int channel_attended_fd(const struct channel *c);
/* Everything queued has been taken by the kernel. */
int channel_written(const struct channel *c);
/* What c->nwritten is when all that was put by now has gone. */
uint64_t channel_end(const struct channel *c);
/* What is queued never goes, nor does what is put from now on. */
void channel_stop_writing(struct channel *c);
/* From now on never a byte past the frame under way. */
void channel_exact(struct channel *c);
/* Whoever gets the socket next takes descriptors: the kernel is not told to refuse them
 * when it is opened, or refuses them no more. */
void channel_accept_fds(struct channel *c);
void channel_ready(struct channel *c, unsigned events);
/* Reads and delivers what is there now, up to a limit that only a flood reaches: then
 * `undrained` is set. */
void channel_drain(struct channel *c);
/* Off the loop, but open: for a parked default template. And back. */
void channel_park(struct channel *c);
int channel_unpark(struct channel *c);

#endif
