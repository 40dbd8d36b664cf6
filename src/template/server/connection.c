/* The control socket of a template or of a clone before run. Reading goes through the
 * pure inbox, so that torn frames and descriptors are its business; answers are small and
 * carry no descriptors, so a plain buffer keeps those that the kernel does not take at
 * once. In a settled template neither of the two allocates: the buffers keep their
 * storage.
 *
 * A write that fails ends writing and no more: what the parent wrote before
 * it went away is still read, and its end of file ends the process in the ordinary way.
 */
#include "template/server/connection.h"

#include "base/result.h"
#include "os/fdwait.h"
#include "os/sock.h"
#include "template/server/bare.h"
#include <errno.h>
#include <string.h>

void connection_open(struct connection *c, int fd, void *room, size_t n) {
  *c = (struct connection){.fd = fd, .intake = -1};
  inbox_init(&c->in, CMD_SETUP, CMD_LAST);
  buf_lend(&c->in.bytes, room, n);
  buf_init(&c->out, CONNECTION_OUT_MAX);
}

static void forget_answers(struct connection *c) {
  buf_consume(&c->out, buf_size(&c->out));
}

void connection_forked(struct connection *c) {
  fd_close(&c->fd);
  c->intake = -1;
  inbox_drop_fds(&c->in);
  forget_answers(c);
  c->executed = c->told = 0;
  c->write_closed = 0;
}

void connection_adopt(struct connection *c, int fd) {
  c->fd = fd;
}

void connection_adopt_intake(struct connection *c, int intake) {
  c->fd = c->intake = intake;
}

int connection_need(struct connection *c) {
  int fd = c->intake;
  c->intake = -1;
  return fd < 0 ? 0 : bare_take_socket(fd);
}

void connection_forget_input(struct connection *c) {
  inbox_reset(&c->in);
}

int connection_next(struct connection *c, struct frame *ret_f) {
  return inbox_next(&c->in, ret_f);
}

int connection_take_fds(struct connection *c, const struct frame *f, struct fdset *fds) {
  int lost = inbox_lost_fds(&c->in);
  for (int i = lost; i < f->nfds; i++)
    fdset_push(fds, inbox_take_fd(&c->in));
  return lost > 0;
}

int connection_receive(struct connection *c, int sleep) {
  size_t n;
  struct fdset fds;
  int truncated = 0;
  if (c->fd < 0)
    return MF_AGAIN;
  if (connection_need(c) < 0)
    return MF_EOF;
  unsigned char *room = inbox_room(&c->in, &n);
  if (!room)
    return errno == ENOBUFS ? -EPROTO : -ENOMEM;
  fdset_init(&fds);
  ssize_t got = sock_recv(c->fd, room, n, sleep, &fds, &truncated);
  if (got == -EAGAIN)
    return MF_AGAIN;
  if (got == 0 || got == -ECONNRESET) /* reset: it closed with answers of ours unread */
    return MF_EOF;
  if (got < 0)
    return (int)got;
  int r = inbox_fed(&c->in, (size_t)got, &fds);
  if (r == 0 && truncated)
    r = inbox_cut(&c->in);
  return r;
}

int connection_answer(struct connection *c, unsigned type, uint64_t id, const void *body,
                      size_t length) {
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame f = {.length = (uint32_t)length, .type = (uint8_t)type, .id = id};
  if (c->fd < 0 || c->write_closed)
    return 0;
  frame_encode(header, &f);
  if (!buf_reserve(&c->out, sizeof header + length))
    return errno == E2BIG ? -E2BIG : -ENOMEM;
  buf_put(&c->out, header, sizeof header);
  return length ? buf_put(&c->out, body, length) : 0;
}

void connection_tell_nothing(struct connection *c) {
  if (c->told == c->executed)
    c->told++;
}

int connection_tell_done(struct connection *c) {
  if (c->executed == c->told)
    return 0;
  int r = connection_answer(c, ANS_DONE, c->executed, NULL, 0);
  if (r == 0)
    c->told = c->executed;
  return r;
}

int connection_flush(struct connection *c) {
  if (buf_size(&c->out) > 0 && connection_need(c) < 0)
    c->write_closed = 1;
  while (c->fd >= 0 && !c->write_closed && buf_size(&c->out) > 0) {
    struct iovec iov = {(void *)(uintptr_t)buf_peek(&c->out), buf_size(&c->out)};
    ssize_t n = sock_send(c->fd, &iov, 1, NULL, 0);
    if (n == -ENOBUFS)
      poll(NULL, 0, SOCK_PAUSE_MS); /* whoever polls for room then would spin */
    if (n == 0 || n == -ENOBUFS)
      return MF_AGAIN;
    if (n < 0)
      c->write_closed = 1;
    else
      buf_consume(&c->out, (size_t)n);
  }
  forget_answers(c);
  return 0;
}

static void wait_for_room(const struct connection *c) {
  struct pollfd p = {.fd = c->fd, .events = POLLOUT};
  fdwait(&p, 1, -1);
}

int connection_flush_all(struct connection *c) {
  while (connection_flush(c) == MF_AGAIN)
    wait_for_room(c);
  return c->fd < 0 || c->write_closed ? -EPIPE : 0;
}

int connection_say(struct connection *c, unsigned type, uint64_t id) {
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame f = {.type = (uint8_t)type, .id = id};
  size_t done = 0;
  if (connection_need(c) < 0 || connection_flush_all(c) < 0)
    return -EPIPE;
  frame_encode(header, &f);
  while (done < sizeof header) {
    struct iovec iov = {header + done, sizeof header - done};
    ssize_t n = sock_send(c->fd, &iov, 1, NULL, 0);
    if (n == 0) {
      wait_for_room(c);
    } else if (n == -ENOBUFS) {
      poll(NULL, 0, SOCK_PAUSE_MS);
    } else if (n < 0) {
      c->write_closed = 1;
      return -EPIPE;
    } else {
      done += (size_t)n;
    }
  }
  return 0;
}
