#undef NDEBUG /* its asserts are the test */
#include "http_kernel.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#define WRAPPED(type, name, ...)                                                         \
  type __real_##name(__VA_ARGS__);                                                       \
  type __wrap_##name(__VA_ARGS__);                                                       \
  type __wrap_##name(__VA_ARGS__)

static struct http_kernel *k;

void http_kernel_set(struct http_kernel *kernel) {
  k = kernel;
}

static uint32_t next_random(uint32_t *state) {
  *state = *state * 1664525u + 1013904223u;
  return *state >> 16;
}

/* 1: mostly few, now and then many. */
static size_t random_size(uint32_t *state) {
  uint32_t n = next_random(state);
  return n % 8 == 0 ? 1 + n % 4096 : 1 + n / 8 % 17;
}

WRAPPED(int, epoll_create1, int flags) {
  return k ? HTTP_EPOLL : __real_epoll_create1(flags);
}

WRAPPED(int, epoll_ctl, int epoll, int op, int fd, struct epoll_event *event) {
  if (!k)
    return __real_epoll_ctl(epoll, op, fd, event);
  assert(epoll == HTTP_EPOLL && fd >= HTTP_LISTENER && fd <= HTTP_COROUTINES);
  if (event && op != EPOLL_CTL_DEL)
    k->tags[fd - HTTP_LISTENER] = event->data.ptr;
  if (fd == HTTP_LISTENER)
    k->is_listening = op != EPOLL_CTL_DEL;
  if (fd == HTTP_CLIENT) {
    assert(k->is_open && event);
    k->events = event->events;
  }
  return 0;
}

/* More of what the client sends, where all that has come was read. */
static void arrive(void) {
  if (k->at < k->arrived || k->arrived == k->size)
    return;
  size_t left = k->size - k->arrived, n = k->cuts ? random_size(&k->cuts) : left;
  k->arrived += n < left ? n : left;
}

static int has_input(void) {
  return k->at < k->arrived || k->has_vanished ||
         (k->arrived == k->size && !k->is_silent);
}

static int tell(struct epoll_event *events, int fd, uint32_t what) {
  events[0].events = what;
  events[0].data.ptr = k->tags[fd - HTTP_LISTENER];
  return 1;
}

WRAPPED(int, epoll_wait, int epoll, struct epoll_event *events, int n, int timeout) {
  if (!k)
    return __real_epoll_wait(epoll, events, n, timeout);
  assert(++k->calls < 1000 + 40 * (k->size + k->output_size)); /* it comes to an end */
  if (k->is_interrupted && next_random(&k->cuts) % 8 == 0) {
    errno = EINTR;
    return -1;
  }
  if (!k->was_open && k->is_listening)
    return tell(events, HTTP_LISTENER, EPOLLIN);
  if (k->was_open && !k->is_open)
    return tell(events, HTTP_CONTROL, EPOLLIN);
  if (k->is_open && (k->events & EPOLLIN)) {
    arrive();
    if (has_input())
      return tell(events, HTTP_CLIENT, EPOLLIN);
  }
  if (k->is_open && (k->events & EPOLLOUT))
    return tell(events, HTTP_CLIENT, k->has_vanished ? EPOLLERR | EPOLLHUP : EPOLLOUT);
  assert(timeout >= 0); /* else nothing would ever happen again */
  k->us += (int64_t)timeout * 1000;
  return 0;
}

WRAPPED(int, accept4, int fd, struct sockaddr *address, socklen_t *size, int flags) {
  if (!k)
    return __real_accept4(fd, address, size, flags);
  assert(fd == HTTP_LISTENER);
  if (k->was_open) {
    errno = EAGAIN;
    return -1;
  }
  address->sa_family = AF_UNIX;
  k->is_open = k->was_open = 1;
  return HTTP_CLIENT;
}

WRAPPED(int, setsockopt, int fd, int level, int name, const void *value, socklen_t size) {
  return k ? 0 : __real_setsockopt(fd, level, name, value, size);
}

WRAPPED(ssize_t, recv, int fd, void *room, size_t size, int flags) {
  if (!k)
    return __real_recv(fd, room, size, flags);
  if (fd == HTTP_CONTROL)
    return 0;
  assert(fd == HTTP_CLIENT && k->is_open);
  if (k->at >= k->vanishes_at)
    k->has_vanished = 1;
  if (k->has_vanished) {
    errno = ECONNRESET;
    return -1;
  }
  arrive();
  size_t n = k->arrived - k->at;
  if (n == 0 && k->is_silent) {
    errno = EAGAIN;
    return -1;
  }
  if (n > size)
    n = size;
  memcpy(room, k->input + k->at, n);
  k->at += n;
  return (ssize_t)n;
}

WRAPPED(ssize_t, send, int fd, const void *data, size_t size, int flags) {
  if (!k)
    return __real_send(fd, data, size, flags);
  assert(fd == HTTP_CLIENT && k->is_open && !k->is_shut && size > 0);
  assert(flags & MSG_NOSIGNAL);
  if (k->has_vanished || (k->writes && next_random(&k->writes) % 4 == 0)) {
    errno = k->has_vanished ? EPIPE : EAGAIN;
    return -1;
  }
  size_t n = k->writes ? random_size(&k->writes) * (1 + size / 64) : size;
  n = n < size ? n : size;
  if (k->output_size + n > k->output_room) {
    k->output_room = 2 * (k->output_size + n);
    k->output = realloc(k->output, k->output_room);
    assert(k->output);
  }
  memcpy(k->output + k->output_size, data, n);
  k->output_size += n;
  return (ssize_t)n;
}

WRAPPED(int, ioctl, int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  if (!k)
    return __real_ioctl(fd, request, argument);
  assert(fd == HTTP_CLIENT && k->is_open && request == FIONREAD);
  *(int *)argument = (int)(k->arrived - k->at);
  return 0;
}

WRAPPED(int, shutdown, int fd, int how) {
  if (!k)
    return __real_shutdown(fd, how);
  assert(fd == HTTP_CLIENT && k->is_open && how == SHUT_WR);
  k->is_shut = 1;
  return 0;
}

WRAPPED(int, close, int fd) {
  if (!k || fd < HTTP_LISTENER)
    return __real_close(fd);
  if (fd == HTTP_CLIENT) {
    assert(k->is_open); /* once */
    k->is_open = 0;
  }
  return 0;
}

WRAPPED(int, clock_gettime, clockid_t clock, struct timespec *now) {
  if (!k)
    return __real_clock_gettime(clock, now);
  now->tv_sec = k->us / 1000000;
  now->tv_nsec = k->us % 1000000 * 1000;
  return 0;
}

WRAPPED(time_t, time, time_t *now) {
  return k ? 1000000000 : __real_time(now);
}
