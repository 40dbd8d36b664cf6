/* A channel: what mux_channel.c and mux_move.c know of it. Runs in the near end and the
 * agent. */
#ifndef REMOTE_MUX_CHANNEL_H
#define REMOTE_MUX_CHANNEL_H

#include "remote/mux.h"
#include "remote/opening.h"

enum {
  CHANNEL_AHEAD =
      256 * 1024, /* so many bytes may wait for the stream while more are read */
  CHANNEL_PIECE = LINK_WINDOW / 2, /* written at once: both ends work at the same time */
  CHANNEL_MOVED_MIN = 32 * 1024    /* fewer are copied */
};

struct mux_channel {
  struct list link, bucket; /* link: in channels or gone; bucket: while has_number */
  struct list waits;        /* to be read: in paused or crowded */
  struct list stalls;       /* to be written: in stalled; both may be at once */
  struct list unmade;       /* in the mux's: token stands for the local descriptor */
  struct mux *mux;
  uint32_t id, token;
  int is_bare; /* agent: a clone is to bring its socket */
  struct local local;
  struct list fresh;  /* in the mux's, until it is watched */
  struct list ending; /* in the mux's, until its local descriptor hears of the end */
  struct turn_watch ready;
  int is_armed, closing;
  int is_hung_up; /* as the turn has told */
  int sends;      /* local bytes still go over */
  int receives;   /* those of the other end are still written */
  int ended;      /* no more come */
  int has_number; /* frames of id mean this channel: not where both directions are over,
                     and bytes that have come wait for their reader alone */
  int is_paused;
  int is_large;    /* what was read last filled a piece */
  int is_read_out; /* nothing lay there when it was read last */
  struct opening opening;
  uint64_t credit;
  uint64_t cookie;          /* by which the program names it; 0: not asked for yet */
  unsigned place;           /* 1 + that in the page's link_direct; 0: none */
  uint32_t ticket;          /* likewise */
  uint64_t nsent, nwritten; /* bytes that went over; by the program among them */
  size_t unacked, queued;   /* written here and not granted yet; in segments */
  size_t awaited;           /* bytes that on_quiet waits for */
  struct list segments;
};

void channel_on_ready(struct turn_watch *w, int events);
/* For a new channel of this end's, which no other has now. */
uint32_t channel_next_id(struct mux *m);
/* Its number may be another's: nothing more is said of it, here or there. Once. */
void channel_leave_number(struct mux_channel *c);
/* Without a local descriptor. NULL: no memory. */
struct mux_channel *channel_new(struct mux *m, uint32_t id);
void channel_drop(struct mux_channel *c);
void channel_count_sent(struct mux_channel *c, size_t n);
/* Where the program writes its bytes: how many may go over now. */
void channel_note_direct(const struct mux_channel *c);
/* It has no bytes of the program's any more. */
void channel_end_direct(struct mux_channel *c);
/* Channel 1, or one whose bytes the program writes, too, is about to be read: 1, or 0: not
 * now. */
int channel_begin_shared(struct mux_channel *c);
/* What was heard shows that the program has written a FORK, of which it is about to say
 * so. 0: of any channel. */
void channel_hear_early(struct mux *m, uint32_t channel);
/* Its local socket, now that it is needed. 0 or -errno: it is gone. */
int channel_make_local(struct mux_channel *c);
/* It has got its local descriptor: it is watched when what is under way has gone. */
void channel_begin_local(struct mux_channel *c);
/* Something else than FORKs of LINK_CLONE goes to the far template. 0 or -errno. */
int channel_before_command(struct mux *m);
/* Those that wait go to the far template. 0 or -errno. */
int channel_pass_forks(struct mux *m);
/* LINK_CLONE. 0 or -errno: it ends the link. */
int channel_take_fork(struct mux *m, const struct link_frame *f);
/* The other end of a new channel that the other side has numbered, or a stand-in (see
 * mux.h). -EPROTO. */
int channel_materialise(struct mux *m, const struct link_descriptor *d, uint32_t channel);
/* Its channel; NULL: there is none. The program may have made it. */
struct mux_channel *channel_of(struct mux *m, const struct link_frame *f);
/* 0, or -EPROTO: it is not one that the other end may make now. It has made it. */
int channel_may_come(struct mux *m, uint32_t id);
void channel_has_come(struct mux *m, uint32_t id);
/* Ends what is not ended of it, towards the other end, and drops it. */
void channel_give_up(struct mux_channel *c);
/* Nobody here takes that channel. */
void channel_refuse(struct mux *m, uint32_t id);
/* Descriptors that were passed on, or never will be, are closed, but stand-ins. */
void channel_close_passed(const struct mux *m, int *fds, int n);
/* NULL: there is none. */
struct mux_channel *channel_find(const struct mux *m, uint32_t id);
/* It is found from now on. */
void channel_enter(struct mux_channel *c);
/* To its local descriptor, at once if nothing waits before them. Takes fds; those that
 * are left in there are the caller's to close. 0 or -ENOMEM. */
int channel_deliver(struct mux_channel *c, const unsigned char *bytes, size_t n,
                    struct fdset *fds);
/* A frame of up to n bytes of the local socket's, without a copy: how many; 0: it is to
 * be read as ever. */
size_t channel_send(struct mux_channel *c, size_t n);
/* What the local descriptor is watched for follows from its state. 0 or -errno. */
int channel_watch(struct mux_channel *c);
/* Whether it waits, with descriptors that lie in its socket, until others are closed. */
int channel_waits_for_room(struct mux_channel *c);
/* The local descriptor has taken n more: the other end may be granted them. */
void channel_count_written(struct mux_channel *c, size_t n);

#endif
