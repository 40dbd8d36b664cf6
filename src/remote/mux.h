/* Streams and the descriptors that travel on them, carried over one pair of byte streams:
 * what both ends of a link do alike. Each channel is a descriptor here, and one at the
 * other end; its flow is limited by a window in each direction, so that what nobody reads
 * stops nobody else. Runs in the near end and the agent, on their loop.
 *
 * Who owns what: a channel its local descriptor; a segment that waits to be written the
 * descriptors that go with it; the mux its channels. */
#ifndef REMOTE_MUX_H
#define REMOTE_MUX_H

#include "base/buf.h"
#include "base/list.h"
#include "remote/local.h"
#include "remote/pairs.h"
#include "remote/turn.h"
#include "wire/link.h"
#include "wire/link_page.h"
#include <uv.h>

struct mux;

struct mux_ops {
  /* Before the greeting: bytes came. 0: frames follow, in `in`. NULL: they do. */
  int (*on_raw)(struct mux *m);
  /* A frame that is no channel's. 0, or -EPROTO: it ends the link. */
  int (*on_frame)(struct mux *m, const struct link_frame *f);
  /* The stream has ended, or the other end broke the protocol. Once. */
  void (*on_end)(struct mux *m, const char *why);
  /* Whether something is to be sent before bytes that were read just now; and sends it.
   * NULL: never. */
  int (*has_news)(struct mux *m);
  void (*put_news)(struct mux *m);
  /* Descriptors came with bytes: what has to be said before, it says. NULL: nothing. */
  void (*before_descriptors)(struct mux *m);
  /* One of them, which is no connected socket: what it becomes over there. 0: unknown.
   * Borrows fd. NULL: there are none. */
  int (*classify)(struct mux *m, int fd, struct link_descriptor *ret);
  /* The socket of a fork is needed: makes it, and gives the other end to whom it belongs.
   * Ours, and the cookie of the other; or -errno: then on_unmade_end follows. NULL: there
   * are no such forks. */
  int (*make_socket)(struct mux *m, uint32_t token, uint64_t *ret_cookie);
  /* It has ended, or is not wanted any more, and was not made. */
  void (*on_unmade_end)(struct mux *m, uint32_t token);
  /* Channel 1 is about to be read. NULL: nothing. */
  void (*before_root)(struct mux *m);
  /* Bytes, or an end, are about to be written to a local descriptor. NULL: nothing. */
  void (*before_local)(struct mux *m);
  /* The descriptor for one that is no stream (from above LINK_PIPE_WRITE), which came
   * with bytes of a channel: the caller's, or -EPROTO, or another -errno. NULL: there are
   * none.
   */
  int (*materialise)(struct mux *m, const struct link_descriptor *d, uint32_t channel);
  /* Bytes go to the far template; then a FORK does, whose descriptor is to be the
   * channel's other end. The command's header may be changed. 1: its clone brings that
   * (mux_adopt); 0: it is to be sent along. NULL: no such frames come. */
  void (*on_command)(struct mux *m);
  int (*take_fork)(struct mux *m, uint32_t channel, const struct link_fork *fork,
                   unsigned char *command);
  /* The local end of a channel has ended; its END follows. NULL: nothing to say. */
  void (*on_local_end)(struct mux *m, uint32_t channel);
  /* A channel is over, and its number may come again: what is noted of it is not to be
   * taken for the next one's. NULL: nothing is. */
  void (*on_number_free)(struct mux *m, uint32_t channel);
  /* All bytes that were in local sockets at mux_await_quiet have been sent on. */
  void (*on_quiet)(struct mux *m);
};

struct mux {
  struct turn *turn;
  const struct mux_ops *ops;
  void *owner;
  int is_agent;
  struct local from, to; /* the stream; -1: not yet */
  int is_deaf;           /* nobody reads it any more */
  int greeted;           /* local descriptors are read */
  int over;              /* on_end was called */
  uint32_t window;
  uint32_t next_id;            /* of our channels: near end 1 mod 4, agent even */
  uint32_t last_ids[2];        /* the last that the other end has made; of the program */
  struct list channels, fresh; /* fresh: not watched yet */
  struct list paused, stalled; /* for room in the stream; for the system to take fds */
  struct list crowded;         /* for descriptors to be closed here */
  struct list ending;          /* whose last byte has come in this turn */
  struct list unmade;          /* without a local descriptor: mux_fork, take_fork */
  int fd_limit;                /* from there on descriptors are few; 0: not looked at */
  int nspare;                  /* so many are kept free for what comes at once */
  int is_crowded;
  struct list gone;   /* to be freed at the end of the turn; */
  unsigned nunclosed; /* so many of them are not closed yet */
  struct list *buckets;
  unsigned nbuckets, nchannels;
  unsigned nawaited; /* channels that must be read on before on_quiet */
  int awaits_quiet;
  struct pairs pairs;
  unsigned char held[LINK_FORKS_MAX * LINK_FORK_MAX]; /* FORKs that go in one write */
  size_t nheld;
  int dead_fd;    /* a socket whose other end is closed */
  int missing_fd; /* the same, marked: what was sent finds no room here */
  struct buf in, out;
  /* Of a large DATA: its channel, and the bytes of it that are still in the stream. */
  uint32_t moved_to;
  size_t nmoved;
  int is_large; /* the last frame was: headers are read alone */
  /* Of a large DATA whose header is written: bytes that stand in a pipe of our own. */
  int ferry[2];
  size_t nferried;
  /* Of channel 1: bytes read here; sent to the other end; may be sent in all. */
  uint64_t nroot, root_sent, root_limit;
  uint64_t heard_ms;  /* when the stream brought something */
  uint64_t passed_ms; /* when descriptors were passed on; 0: what came of it is known */
  /* Near end: the stream has two writers (link_early.h); NULL: one. */
  struct link_page *page;
  uint32_t nearly; /* what the program has written, as far as it is known here */
  struct mux_channel *direct[LINK_DIRECT_MAX]; /* of the page; or NULL */
  int direct_is_news; /* they have sent bytes that the page does not say */
  int has_claim;      /* the stream is ours alone: a frame may stand there in part */
  int has_asked, is_waiting;        /* for that */
  struct turn_watch reader, writer; /* writer: until the stream takes more */
  uv_timer_t retry;
};

enum mux_direction { MUX_BOTH, MUX_FROM_LOCAL, MUX_TO_LOCAL };

/* 0 or -errno. */
int mux_init(struct mux *m, struct turn *turn, const struct mux_ops *ops, void *owner,
             int is_agent);
/* The stream (taken). 0 or -errno. */
int mux_open(struct mux *m, int rfd, int wfd);
/* Local descriptors are read and written from now on. */
void mux_begin(struct mux *m, uint32_t window);
/* This process may have as many descriptors as the system allows. Where these are few,
 * local sockets that bring some wait until others are closed. */
void mux_raise_limit(struct mux *m);
/* A channel with that id for fd (taken also on failure), a socket if it is for both. 0 or
 * -errno. */
int mux_add(struct mux *m, uint32_t id, int fd, enum mux_direction way);
/* A command to the far template with a descriptor for the other end, whose local socket
 * is made when bytes come for it. 0, -EPROTO: it does not fit into the window, or another
 * -errno. */
int mux_fork(struct mux *m, const struct link_fork *fork);
/* The program writes FORKs to the stream by itself from now on. Claimed at first. */
void mux_share(struct mux *m, struct link_page *page);
/* More than fits into the stream at once is about to be written, or channel 1 to be read:
 * 0: the program is writing, once more later. */
int mux_claim(struct mux *m);
/* The end of a turn: the program may write again, if nothing waits for the stream. */
void mux_release(struct mux *m);
/* The program's FORKs become channels, and what it has written of others is counted,
 * before anything that refers to it is handled. */
void mux_import(struct mux *m);
/* The program may write the bytes of a channel by itself, as that place of the page says:
 * of the socket with that cookie, the program's end of one that was made here, ours of
 * others. */
void mux_direct(struct mux *m, uint32_t place, uint32_t ticket, uint64_t cookie);
/* Nobody wants it: ends both directions, unless it has been made, or has ended. */
void mux_forget_fork(struct mux *m, uint32_t token);
/* fd (taken): what has come from a clone of take_fork's 1, if the channel still waits. */
void mux_adopt(struct mux *m, uint32_t id, int fd);
/* Nothing will come: ends both directions, if the channel still waits. */
void mux_end_unmade(struct mux *m, uint32_t id);
/* Whether there is such a channel. */
int mux_has(const struct mux *m, uint32_t id);
/* Those that were added are watched from now on. */
void mux_arm(struct mux *m);
/* The end of a turn: what waits is written, what is new is watched. */
void mux_after(struct mux *m);
/* Reads what the stream has now. */
void mux_read(struct mux *m);
/* Says that we are here. 0 or -ENOMEM. */
int mux_ping(struct mux *m);
/* Writes what it takes now. */
void mux_flush(struct mux *m);
/* on_quiet when what local sockets hold now is sent, or waits for its window. */
void mux_await_quiet(struct mux *m);
/* Ends the link for that reason. */
void mux_break(struct mux *m, const char *why);
/* Those that wait for descriptors to be closed are read, whatever comes of it. */
void mux_make_room(struct mux *m);
/* Closes everything but the timer, which is the caller's to close. */
void mux_shut(struct mux *m);
/* After that: its memory. */
void mux_deinit(struct mux *m);
/* Whether descriptors are few: those that come may find no room. */
int mux_is_short(const struct mux *m);
/* Bytes that wait for the stream. */
size_t mux_backlog(const struct mux *m);
uint64_t mux_now_ms(const struct mux *m);
/* SIGUSR2 prints what it is doing on standard error, from now on. */
void mux_dump_on_signal(struct mux *m);
/* Writes down channels, the oldest first. */
void mux_list(const struct mux *m, struct link_page *page);

/* ---- what mux_channel.c has for mux.c ---- */

/* A frame of any type, after the greeting or of it. 0 or -errno: it ends the link. */
int mux_take_frame(struct mux *m, const struct link_frame *f);
/* All frames that had come are taken: local descriptors hear of ends. */
void mux_end_channels(struct mux *m);
/* Of that frame only `have` bytes have come: they go to the channel, and the others,
 * m->nmoved, follow from the stream without a copy. 0, MF_AGAIN: not so, or -ENOMEM. */
int mux_begin_move(struct mux *m, const struct link_frame *f, size_t have);
/* Moves what the stream has of them. 0: all has come, MF_AGAIN, -EPIPE: it has ended, or
 * another -errno. */
int mux_move(struct mux *m);
/* The bytes that stand in the pipe of our own go to the stream. 0, MF_AGAIN: it has no
 * room, or another -errno. */
int mux_ferry(struct mux *m);
/* So many of the bytes that wait may be written now. */
size_t mux_writable(struct mux *m);
/* The stream has room again: those that wait for it go on. */
void mux_resume(struct mux *m);
/* Once more to write what the system had no room for. */
void mux_retry(struct mux *m);
/* Tells on_quiet when nothing is waited for any more. */
void mux_look_quiet(struct mux *m);
/* Room for more channels: 0 or -ENOMEM. */
int mux_grow(struct mux *m);
/* The window is known: all are read from now on. */
void mux_begin_channels(struct mux *m);
void mux_drop_all(struct mux *m);
void mux_free_gone(struct mux *m);

#endif
