#include "parent/rpc/payload.h"

#include "os/fd.h"
#include "wire/rpc_proto.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
  SMALLEST = 256, /* bytes: room at least */
  KEPT_MAX = 4096 /* kept for reuse at most; longer than that: the blockcache's */
};

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

/* Those in a blockcache are cut to the next 64 KiB, so that a little more fits the next
 * time. */
static int find_room(struct payload *p, size_t length, struct blockcache *blockcache) {
  size_t unit = 64 * 1024;
  p->blockcache = blockcache;
  p->data = blockcache_take(blockcache, (length + unit - 1) / unit * unit, &p->cap);
  return p->data ? 0 : -ENOMEM;
}

static struct payload *payload_alloc(size_t length, struct blockcache *blockcache) {
  int outside = blockcache && length >= BLOCKCACHE_BLOCK_MIN;
  size_t cap = outside ? 0 : length < SMALLEST ? SMALLEST : length;
  struct payload *p = malloc(sizeof *p + cap);
  if (!p)
    return NULL;
  p->cap = cap;
  p->blockcache = NULL;
  p->data = (unsigned char *)(p + 1);
  if (outside && find_room(p, length, blockcache) < 0) {
    free(p);
    return NULL;
  }
  return p;
}

struct payload *payload_blank(size_t length, struct blockcache *blockcache,
                              struct payload *reuse) {
  struct payload *p = reuse;
  if (p && p->cap < length) {
    free(p);
    p = NULL;
  }
  if (!p)
    p = payload_alloc(length, blockcache);
  if (!p)
    return NULL;
  p->refs = 1;
  p->nfds = 0;
  p->fds = NULL;
  p->lent = NULL;
  p->length = length;
  return p;
}

int payload_new(const mf_message *m, struct blockcache *blockcache, struct payload *reuse,
                struct payload **ret) {
  struct payload *p = payload_blank(m->length, blockcache, reuse);
  int r;
  if (!p)
    return MF_ENOMEM;
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

static int take_loan(struct payload *p, const struct mf_loan *loan) {
  p->lent = malloc(loan->n * sizeof *p->lent);
  if (!p->lent)
    return MF_ENOMEM;
  memcpy(p->lent, loan->lent, loan->n * sizeof *p->lent);
  p->loan = *loan;
  p->loan.lent = p->lent;
  p->length += lent_bytes(p->lent, loan->n);
  return 0;
}

int payload_new_lent(const mf_message *own, const struct mf_loan *loan,
                     struct blockcache *blockcache, struct payload **ret) {
  struct payload *p;
  int r = payload_new(own, blockcache, NULL, &p);
  if (!r) {
    r = take_loan(p, loan);
    if (r)
      payload_drop(p);
  }
  if (r)
    loan->release(loan->data);
  else
    *ret = p;
  return r;
}

size_t payload_pieces(const struct payload *p, struct iovec *pieces) {
  size_t own = p->length - lent_bytes(p->lent, p->loan.n);
  return lent_cut(p->data, own, p->lent, p->loan.n, pieces);
}

static void end_loan(struct payload *p) {
  if (!p->lent)
    return;
  free(p->lent);
  p->lent = NULL;
  p->loan.release(p->loan.data);
}

struct payload *payload_hold(struct payload *p) {
  p->refs++;
  return p;
}

int payload_read_file(const struct payload *p, void *bytes, size_t n) {
  if (p->nfds != 1)
    return -EBADF;
  ssize_t r = pread(p->fds[0], bytes, n, 0);
  if (r < 0)
    return -errno;
  return (size_t)r == n ? 0 : -ENODATA;
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
  end_loan(p);
  if (!p->blockcache && p->cap <= KEPT_MAX)
    return p;
  if (p->blockcache)
    blockcache_give(p->blockcache, p->data, p->cap);
  free(p);
  return NULL;
}

void payload_drop(void *payload) {
  free(payload_recycle(payload));
}
