#include "parent/process/far_direct.h"

#include "parent/process/far.h"
#include "parent/process/far_link.h"
#include "wire/link_early.h"
#include <limits.h>
#include <stdatomic.h>
#include <string.h>

enum { BEFORE_MIN = 4 }; /* requests, before it is worth a message to the near end */

static int find_place(const struct far_link *far, unsigned *ret) {
  for (unsigned i = 0; i < LINK_DIRECT_MAX; i++)
    if (!(far->places >> i & 1)) {
      *ret = i;
      return 1;
    }
  return 0;
}

/* Once: without a place, or without an answer, all goes by the socket. */
void far_direct_expect(struct far_link *far, struct far_direct *d, int fd,
                       uint64_t cookie) {
  const struct backend *b = far->context->backend;
  if (far->input < 0 || d->nbefore > BEFORE_MIN || d->nbefore++ < BEFORE_MIN ||
      !find_place(far, &d->place))
    return;
  if (!cookie && b->ops->cookie)
    cookie = b->ops->cookie(far->context->backend, fd);
  uint32_t ticket = far->last_ticket + 1 ? far->last_ticket + 1 : 1;
  const uint32_t numbers[4] = {d->place, ticket, (uint32_t)cookie,
                               (uint32_t)(cookie >> 32)};
  if (!cookie || far_tell(far, LINK_DIRECT, numbers, 4) < 0)
    return;
  d->ticket = far->last_ticket = ticket;
  far->places |= (uint64_t)1 << d->place;
}

/* Nothing is overtaken: what was said on the side, and written to the socket, stands in the
 * stream. */
static int may_write(const struct far_link *far, const struct far_direct *d,
                     uint64_t nsocket, size_t size) {
  struct link_page *page = far->page;
  if (far->input < 0 || far->lost || buf_size(&far->out) > 0)
    return 0;
  struct link_direct *at = &page->direct[d->place];
  if (atomic_load(&at->ticket) != d->ticket ||
      atomic_load(&at->npassed) != (uint32_t)nsocket ||
      atomic_load(&page->npassed) != (uint32_t)page->nsaid)
    return 0;
  uint32_t left = atomic_load(&at->limit) - (uint32_t)(nsocket + d->nwritten);
  return left <= INT32_MAX && size <= left;
}

size_t far_direct_write(struct far_link *far, struct far_direct *d, uint64_t nsocket,
                        const struct iovec *iov, int niov) {
  struct backend *b = far->context->backend;
  unsigned char frame[PIPE_BUF];
  size_t n = LINK_HEADER_SIZE;
  for (int i = 0; d->ticket && i < niov; i++) {
    if (iov[i].iov_len > sizeof frame - n)
      return 0;
    memcpy(frame + n, iov[i].iov_base, iov[i].iov_len);
    n += iov[i].iov_len;
  }
  size_t size = n - LINK_HEADER_SIZE;
  if (size == 0 || !may_write(far, d, nsocket, size))
    return 0;
  struct link_early e = {.channel = atomic_load(&far->page->direct[d->place].channel),
                         .size = (uint32_t)size};
  link_put_header(frame, LINK_DATA, 0, e.channel, e.size);
  if (!link_early_begin(far->page, far->nearly, &e))
    return 0;
  int r = b->ops->write_pipe(b, far->input, frame, n) > 0;
  link_early_end(far->page, far->nearly, r);
  far->nearly += (uint32_t)r;
  d->nwritten += r ? size : 0;
  return r ? size : 0;
}

/* The place is another's with the next ticket. */
void far_direct_end(struct far_link *far, struct far_direct *d) {
  if (d->ticket)
    far->places &= ~((uint64_t)1 << d->place);
  *d = (struct far_direct){.nbefore = BEFORE_MIN + 1, .nwritten = d->nwritten};
}
