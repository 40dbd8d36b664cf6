/* Bytes and descriptors in, whole frames out. Pure: no system call but closing what
 * nobody claims. Descriptors are matched to frames by count and order, never by the
 * boundaries of reads. Used by the parent (answers, no descriptors) and by templates
 * (commands).
 *
 *   inbox_room -> read into it -> inbox_fed -> inbox_next ... until MF_AGAIN
 *
 * The body of a long frame need not lie here: inbox_open gives the frame as soon as its
 * header is there, and the rest of the body is read to where the owner wants it:
 *
 *   inbox_open -> [inbox_rooms -> read into them -> inbox_took, inbox_fed] ... until
 *   inbox_open_left is 0 -> inbox_next as before
 */
#ifndef WIRE_INBOX_H
#define WIRE_INBOX_H

#include "base/buf.h"
#include "os/fd.h"
#include "wire/frame.h"
#include <sys/uio.h>

enum { INBOX_FDS_MAX = 1024 }; /* descriptors waiting for their frames */
enum { INBOX_FEW = 8 };
enum { INBOX_ROOM_MIN = 4 * 1024, INBOX_ROOM_MAX = 64 * 1024 };
/* Bytes held at most: a torn frame of the greatest length, and one read more. */
enum { INBOX_MAX = FRAME_HEADER_SIZE + FRAME_BODY_MAX + INBOX_ROOM_MAX };

struct inbox {
  struct buf bytes;
  int *fds;           /* queue of descriptors not yet claimed; NULL: it is `few` */
  int few[INBOX_FEW]; /* in a template beside what each birth writes anyway */
  size_t fd_head, fd_tail, fd_cap;
  unsigned first_type, last_type;
  size_t frame_left; /* bytes of the delivered frame, consumed by the next call */
  size_t fds_left;   /* its descriptors that nobody took yet */
  int lost;          /* descriptors that the delivered frame lacks */
  size_t want, room; /* bytes to offer, and offered last: doubled while reads fill it */
  int exact;         /* never ask for a byte past the frame under way */
  size_t open_left, open_room; /* bytes of the open frame that are still to come, and the
                                  room for them that was offered last */
  int opened;                  /* some frame was: no more room than wanted */
};

void inbox_init(struct inbox *in, unsigned first_type, unsigned last_type);
/* Closes every unclaimed descriptor. */
void inbox_deinit(struct inbox *in);
/* exact: from now on inbox_room never reaches past the present frame's last byte. */
void inbox_set_exact(struct inbox *in, int exact);
/* Where to read and how much: at least 1 byte. NULL on lack of memory (errno ENOMEM), or
 * when whole frames that inbox_next would give are in the way (ENOBUFS): in exact mode
 * any, else INBOX_MAX bytes. */
unsigned char *inbox_room(struct inbox *in, size_t *ret_n);
/* n bytes were read there. Takes the descriptors that came with them (NULL: none), even
 * on failure. 0, -ENOMEM, or -EPROTO: more than INBOX_FDS_MAX unclaimed. */
int inbox_fed(struct inbox *in, size_t n, struct fdset *fds);
/* The next whole frame: 0; MF_AGAIN: not whole yet; -EPROTO: a bad header, or all bytes
 * without the descriptors, which should have come with the first. f->body is valid until
 * the next call of inbox_next or inbox_room. */
int inbox_next(struct inbox *in, struct frame *ret_f);
enum { INBOX_OPEN_MIN = 16 * 1024 }; /* bytes of a body that must be missing */
/* After MF_AGAIN: the frame under way, if its header is there and INBOX_OPEN_MIN bytes of
 * its body are missing: 0, and *ret_have bytes lie at f->body, valid as long as
 * inbox_next's; else MF_AGAIN, or -EPROTO without its descriptors. Not for exact inboxes.
 * The inbox then offers little room at first, so that the next long body is noticed soon.
 */
int inbox_open(struct inbox *in, struct frame *ret_f, size_t *ret_have);
/* Bytes of the open frame's body that are still to come; while there are, inbox_next
 * gives MF_AGAIN. */
size_t inbox_open_left(const struct inbox *in);
/* Where to read: n bytes at body, at most inbox_open_left (0: body is not looked at), and
 * behind the end of the body the inbox's own room. Fills iov and returns how many, or 0
 * as inbox_room gives NULL. */
int inbox_rooms(struct inbox *in, void *body, size_t n, struct iovec iov[2]);
/* Of the bytes read, how many went to body; the others are for inbox_fed. */
size_t inbox_took(struct inbox *in, size_t bytes);
/* The frame's next descriptor, to be called at most f->nfds times after inbox_next; what
 * is not taken by the next inbox_next is closed. */
int inbox_take_fd(struct inbox *in);
/* The kernel dropped some of the descriptors that the last inbox_fed should have brought
 * (MSG_CTRUNC). The frame they belong to is delivered with fewer: inbox_lost_fds of a
 * delivered frame says how many it lacks, and so many fewer may be taken. 0 or -ENOMEM.
 */
int inbox_cut(struct inbox *in);
int inbox_lost_fds(const struct inbox *in);
/* After MF_AGAIN: whether the descriptors that wait are those that the torn frame says,
 * none between frames, and no more than there can be before its header is whole. */
int inbox_fds_are_announced(const struct inbox *in);
/* In a forked process: closes every unclaimed descriptor, keeps the bytes. */
void inbox_drop_fds(struct inbox *in);
/* In a copy of the descriptor table: closes their numbers there; the inbox stays as it
 * is. */
void inbox_close_copies(const struct inbox *in);
/* 1 when fd waits here for its frame. */
int inbox_holds_fd(const struct inbox *in, int fd);
/* Forgets bytes and descriptors (closed), keeps the storage. */
void inbox_reset(struct inbox *in);
/* Bytes held that belong to no delivered frame (a torn frame at the end of a stream). */
size_t inbox_pending(const struct inbox *in);

#endif
