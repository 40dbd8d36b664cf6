/* Frames and descriptors in; "send these bytes with those descriptors" out; "n went"
 * back. Pure: no system call but closing descriptors. A frame's descriptors go with its
 * first byte, and a short write has sent them already. Bytes are copied unless they are
 * put by reference, so a gigabyte of arguments is held once. */
#ifndef WIRE_OUTBOX_H
#define WIRE_OUTBOX_H

#include "base/list.h"
#include "os/fd.h"
#include "wire/frame.h"
#include <stddef.h>
#include <sys/uio.h>

struct outbox_segment;

struct outbox {
  struct list segments;
  size_t nbytes;                /* queued bytes, references included */
  struct outbox_segment *spare; /* one small segment kept, so that an answer now and then
                                   needs no allocation */
};

void outbox_init(struct outbox *o);
/* Drops everything: closes descriptors, calls the releases. */
void outbox_deinit(struct outbox *o);
/* The same, but of what holds descriptors only the first n segments: closing thousands
 * takes long. The others go to the end of `rest`, for outbox_drop_rest. */
void outbox_deinit_some(struct outbox *o, int n, struct list *rest);
/* Drops the first of them. */
void outbox_drop_rest(struct list *rest);
int outbox_empty(const struct outbox *o);
/* Queues a frame; a body longer than FRAME_BODY_MAX goes in parts (FRAME_MORE). Takes fds
 * (at most FRAME_FDS_MAX; NULL: none), even on failure. 0 or -ENOMEM. */
int outbox_put(struct outbox *o, unsigned type, uint64_t id, const void *body,
               size_t length, struct fdset *fds);
/* The same with a borrowed body; release is called exactly once, also on failure. */
int outbox_put_ref(struct outbox *o, unsigned type, uint64_t id, const void *body,
                   size_t length, void (*release)(void *), void *release_data);
/* The same with a body whose n > 0 pieces lie in different places. The array is not
 * needed any more when this returns. Takes fds as outbox_put does. release may be NULL.
 */
int outbox_put_pieces(struct outbox *o, unsigned type, uint64_t id,
                      const struct iovec *pieces, size_t n, struct fdset *fds,
                      void (*release)(void *), void *release_data);
/* What is left of a borrowed body at [body, body + length), which must have been put
 * last, is copied to `to` and sent from there; nothing where it has gone already. */
void outbox_move(struct outbox *o, const void *body, size_t length, void *to);
enum { OUTBOX_IOV_MAX = 16 };
/* What to send next: fills iov (up to OUTBOX_IOV_MAX) and the descriptors that go with
 * its first byte (borrowed, at most FRAME_FDS_MAX). Returns the number of iovecs, 0:
 * empty. Never reaches past a point where further descriptors begin. */
int outbox_next(struct outbox *o, struct iovec *iov, const int **ret_fds, int *ret_nfds);
/* What a loop writes of one in a turn, about: its reader may be as fast as the writer. */
enum { OUTBOX_TURN = 4 << 20 };
/* n > 0 bytes of that went; its descriptors with them, which are closed here. */
void outbox_sent(struct outbox *o, size_t n);

#endif
