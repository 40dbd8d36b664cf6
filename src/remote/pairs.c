#include "remote/pairs.h"

#include "os/fd.h"
#include "os/sock.h"
#include "wire/link.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static int make_pipe(unsigned kind, int ret[2]) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0)
    return -errno;
  for (int i = 0; i < 2; i++)
    ends[i] = fd_raise_made(ends[i]);
  ret[0] = ends[kind == LINK_PIPE_READ];
  ret[1] = ends[kind != LINK_PIPE_READ];
  if (ret[0] >= 0 && ret[1] >= 0)
    return 0;
  fd_close(&ret[0]);
  fd_close(&ret[1]);
  return -EMFILE;
}

int pairs_take(struct pairs *p, unsigned kind, int ret[2]) {
  if (kind != LINK_STREAM)
    return make_pipe(kind, ret);
  p->is_used = 1;
  if (p->nahead == 0)
    return sock_pair(ret, 0);
  memcpy(ret, p->ahead[--p->nahead], sizeof p->ahead[0]);
  return 0;
}

void pairs_refill(struct pairs *p) {
  if (!p->is_used)
    return;
  p->is_used = 0;
  while (p->nahead < PAIRS_AHEAD && sock_pair(p->ahead[p->nahead], 0) == 0)
    p->nahead++;
}

void pairs_close(struct pairs *p) {
  for (; p->nahead > 0; p->nahead--)
    for (int i = 0; i < 2; i++)
      fd_close(&p->ahead[p->nahead - 1][i]);
  p->is_used = 0;
}
