/* Requests over a link that the program writes to the command's input by itself
 * (doc/remote-protocol.md, "The program's own requests"), so that the near end is woken
 * for the answer alone. Runs in the parent, on the link's loop. */
#ifndef PARENT_PROCESS_FAR_DIRECT_H
#define PARENT_PROCESS_FAR_DIRECT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct far_link;

/* A socket of a process over there: in the record of who writes to it. All zero: it was
 * not asked for. */
struct far_direct {
  uint32_t ticket;   /* 0: none */
  unsigned place;    /* in the page */
  unsigned nbefore;  /* requests that went before it was asked for */
  uint64_t nwritten; /* bytes that went by the command's input */
};

/* A request is written: after some of them the near end is asked for permission. fd: the
 * program's end of the socket; cookie: that of the other end, if the program has made it,
 * else 0. */
void far_direct_expect(struct far_link *far, struct far_direct *d, int fd,
                       uint64_t cookie);
/* nsocket: bytes that were written to the socket until now. All bytes that are given, or 0:
 * they are to be written to the socket. */
size_t far_direct_write(struct far_link *far, struct far_direct *d, uint64_t nsocket,
                        const struct iovec *iov, int niov);
/* Nothing more is written. */
void far_direct_end(struct far_link *far, struct far_direct *d);

#endif
