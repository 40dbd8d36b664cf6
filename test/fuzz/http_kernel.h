/* The kernel of fuzz_http: one listener, one client, one control socket, and a clock that moves
 * when everybody waits. The linker puts these calls in the place of libc's (--wrap), for
 * the descriptors from HTTP_LISTENER on and while a kernel is set; all others are real. */
#ifndef HTTP_KERNEL_H
#define HTTP_KERNEL_H

#include <stddef.h>
#include <stdint.h>

enum { HTTP_LISTENER = 1 << 20, HTTP_CONTROL, HTTP_CLIENT, HTTP_EPOLL, HTTP_COROUTINES };

struct http_kernel {
  const char *input;  /* what the client sends, ... */
  size_t size, at;    /* ... and what of it was read */
  size_t arrived;     /* and what can be read now */
  uint32_t cuts;      /* 0: all at once; else the state of the random sizes of pieces */
  uint32_t writes;    /* the same for what the client reads; it grows in `output` */
  size_t vanishes_at; /* the client is reset when so many bytes of `input` were read */
  int is_silent;      /* the client does not end its side, but waits for a time limit */
  int is_interrupted; /* now and then, by a signal */
  char *output;
  size_t output_size, output_room;
  int is_open, was_open, is_shut, has_vanished;
  uint32_t events; /* that are waited for at the client */
  void *tags[5];   /* of the descriptors, as epoll_ctl said */
  int is_listening;
  int64_t us;
  size_t calls;
};

/* Which one is seen from now on; NULL: the real one. */
void http_kernel_set(struct http_kernel *kernel);

#endif
