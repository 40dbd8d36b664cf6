#include "parent/payload.h"

#include "os/fd.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
  SMALLEST = 256,
  KEPT_MAX = 4096
}; /* octets: room at least; kept for reuse at most */

int payload_check(const mf_message *m, uint64_t message_max) {
  if (!m || (m->length && !m->data) || (m->nfds && !m->fds))
    return MF_EINVAL;
  return m->length > message_max || m->nfds > RPC_MESSAGE_FDS_MAX ? MF_ELIMIT : 0;
}

static int copy_fds(struct payload *p, const mf_message *m) {
  int fd;
  if (!m->nfds)
    return 0;
  p->fds = malloc(m->nfds * sizeof *p->fds);
  if (!p->fds)
    return MF_ENOMEM;
  for (; p->nfds < m->nfds; p->nfds++) {
    fd = fd_dup(m->fds[p->nfds]);
    if (fd < 0)
      return fd == -EBADF ? MF_EINVAL : fd;
    p->fds[p->nfds] = fd;
  }
  return 0;
}

int payload_new(const mf_message *m, struct payload *reuse, struct payload **ret) {
  struct payload *p = reuse;
  size_t cap = m->length < SMALLEST ? SMALLEST : m->length;
  int r;
  if (p && p->cap < m->length) {
    free(p);
    p = NULL;
  }
  if (!p) {
    p = malloc(sizeof *p + cap);
    if (!p)
      return MF_ENOMEM;
    p->cap = cap;
    p->data = (unsigned char *)(p + 1);
  }
  p->refs = 1;
  p->nfds = 0;
  p->fds = NULL;
  p->length = m->length;
  if (m->length)
    memcpy(p->data, m->data, m->length);
  r = copy_fds(p, m);
  if (r) {
    payload_drop(p);
    return r;
  }
  *ret = p;
  return 0;
}

struct payload *payload_hold(struct payload *p) {
  p->refs++;
  return p;
}

void payload_close(struct payload *p) {
  for (size_t i = 0; i < p->nfds; i++)
    fd_close(&p->fds[i]);
  p->nfds = 0;
}

struct payload *payload_recycle(struct payload *p) {
  if (--p->refs)
    return NULL;
  payload_close(p);
  free(p->fds);
  p->fds = NULL;
  if (p->cap <= KEPT_MAX)
    return p;
  free(p);
  return NULL;
}

void payload_drop(void *payload) {
  free(payload_recycle(payload));
}
