/* Frames in, whole messages out: parts are put together, handles that came ahead go with
 * their message, a long body is read to where its owner wants it. Pure, as the inbox that
 * it is made of: the caller reads, and closing descriptors is the only system call. Used
 * on both sides of an rpc (rpc_proto.h).
 *
 *   message_rooms -> read into them -> message_fed -> message_next ... until MF_AGAIN
 *
 * Memory grows with what arrives. The body of a short message is lent from the inbox. */
#ifndef WIRE_MESSAGE_H
#define WIRE_MESSAGE_H

#include "wire/inbox.h"
#include "wire/parts.h"

/* What a type of frame may have, and what it is. */
enum message_rule {
  MESSAGE_NUMBERED = 1, /* has an id; others have none */
  MESSAGE_PARTS = 2,    /* may come in parts */
  MESSAGE_HANDLES = 4,  /* may have descriptors */
  MESSAGE_AHEAD = 8, /* is no message, but has descriptors of the next one, and no body */
  MESSAGE_EMPTY = 16, /* has no body */
  MESSAGE_OWN = 32    /* its body is the library's, not the user's: its limit is
                         FRAME_BODY_MAX, and not body_max */
};

/* The owner's memory for one long body, in which bytes are appended. */
struct message_store {
  void (*begin)(struct message_store *s); /* the body is about to grow from nothing */
  /* Room for up to n > 0 bytes more; *ret_n: for how many, at least 1. NULL: no memory.
   */
  void *(*room)(struct message_store *s, size_t n, size_t *ret_n);
  void (*commit)(struct message_store *s, size_t n); /* so many were written there */
  const void *(*body)(struct message_store *s);
};

struct message_options {
  unsigned first_type, last_type;
  const unsigned char *rules; /* bits of enum message_rule, by type - first_type */
  size_t body_max, fds_max;   /* of one message */
  int no_handles;             /* no message has any, whatever the rules say */
  int exact_fds; /* descriptors come with the first byte of their frame, or break
                    the protocol; not where the kernel may drop some */
  struct message_store *store;
  /* What is wrong with the first frame of a message now; NULL: nothing. May be NULL. */
  const char *(*refuse)(void *owner, unsigned type);
  void *owner;
};

struct message_reader {
  struct message_options options;
  struct inbox in;
  struct parts parts; /* of a message whose body grows in the store */
  int partial, more;  /* a part is being read into the store; it has FRAME_MORE */
  int ahead;          /* descriptors came whose message has to follow */
  int lost;           /* some descriptors of the message found no room */
  int delivered;      /* the descriptors are those of a delivered message */
  int *fds;
  size_t nfds, fds_cap;
  const char *wrong; /* what broke the protocol */
};

struct message { /* borrowed until the next message_next */
  unsigned type;
  uint64_t id;
  const void *body;
  size_t length;
  int stored; /* the body lies in the store, which is the owner's again */
  int lost;   /* it came without some of its descriptors */
  int *fds;   /* to be taken by leaving -1 */
  size_t nfds;
};

void message_init(struct message_reader *r, const struct message_options *o);
/* Closes what nobody has taken. */
void message_deinit(struct message_reader *r);
/* 0: *ret is the next message; MF_AGAIN: more bytes are needed; -ENOMEM; -EPROTO:
 * r->wrong says what is wrong. Closes what is left of the last message's descriptors. */
int message_next(struct message_reader *r, struct message *ret);
/* Where to read. Fills iov and returns how many, or 0: no memory, or messages are in the
 * way (errno ENOMEM, ENOBUFS). */
int message_rooms(struct message_reader *r, struct iovec iov[2]);
/* n bytes were read there. Takes the descriptors that came with them (NULL: none), even
 * on failure. 0, -ENOMEM or -EPROTO. */
int message_fed(struct message_reader *r, size_t n, struct fdset *fds);
/* The kernel dropped some of the descriptors of the last read: as inbox_cut. */
int message_cut(struct message_reader *r);
/* Whether the stream ends in the middle of a message if it ends now. */
int message_is_partial(const struct message_reader *r);
/* In a forked process: closes the descriptors of messages that are not delivered. */
void message_drop_fds(struct message_reader *r);

#endif
