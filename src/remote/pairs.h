/* Pairs of descriptors: what stands for a stream that the other end of the link has. Some
 * are made ahead: the kernel takes longer for a pair of sockets than the rest of passing
 * a fork command on. Runs in the near end and the agent. */
#ifndef REMOTE_PAIRS_H
#define REMOTE_PAIRS_H

enum { PAIRS_AHEAD = 2 };

struct pairs {
  int ahead[PAIRS_AHEAD][2]; /* of sockets */
  int nahead, is_used;       /* used: since the last refill */
};

/* kind: of wire/link.h, LINK_STREAM or a pipe. ret[0] is ours, ret[1] is passed on; the
 * caller's. 0 or -errno. */
int pairs_take(struct pairs *p, unsigned kind, int ret[2]);
/* When nothing waits for it; nothing is made where none was taken. */
void pairs_refill(struct pairs *p);
/* Those that are left. */
void pairs_close(struct pairs *p);

#endif
