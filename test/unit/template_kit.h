/* A blocking parent for tests of the template program: it starts one by its boot
 * contract, sends frames over its socket and reads what comes back. No parent library
 * takes part. */
#ifndef TEMPLATE_KIT_H
#define TEMPLATE_KIT_H

#include "base/buf.h"
#include "moonfork.h"
#include "os/fd.h"
#include "os/proc.h"
#include "os/sock.h"
#include "unit.h"
#include "wire/build.h"
#include "wire/frame.h"
#include "wire/slot_layout.h"
#include <stdlib.h>
#include <sys/socket.h>

enum { TIMEOUT_MS = 20000 };

struct template {
  pid_t pid;
  int fd, leash; /* our ends */
};

struct answer {
  struct frame f;
  unsigned char body[FRAME_BODY_MAX];
};

void read_exactly(int fd, void *to, size_t n);

/* The next answer, whatever it is. */
void next(int fd, struct answer *ret);

/* The next answer that is no DONE; it must have that type. */
void expect(int fd, unsigned type, struct answer *ret);
void expect_done(int fd, uint64_t n);
void expect_eof(int fd);
void send_flags(int fd, unsigned type, uint64_t id, unsigned flags, const void *body,
                size_t n, const int *fds, int nfds);
void put(int fd, unsigned type, uint64_t id, const void *body, size_t n);
void put_text(int fd, unsigned type, const char *text);
void put_eval(int fd, const char *code);
void option(struct buf *b, unsigned tag, const void *value, size_t n);
void option_byte(struct buf *b, unsigned tag, unsigned value);
void setup_with(int fd, int pipe_leash);

/* The memory that every template and its clones get: the slot of a clone is its id. */
enum { SLOTS = 1024 };

struct shared {
  int births_fd, words_fd;
  volatile uint32_t *births;
  struct slot *words;
};
extern struct shared shared;

void share(void);
void unshare_all(void);

/* Sends FORK with options, the socket and nfds more descriptors; gives the clone's
 * socket. The clone is to be our child. */
int put_fork_with(int fd, uint64_t id, struct buf *options, const int *fds, int nfds);
int put_fork(int fd, uint64_t id);
/* The same, though a number may stand in its slot. */
int put_fork_again(int fd, uint64_t id, struct buf *options, const int *fds, int nfds);

/* Its number stands in its slot, and it is our child. */
pid_t expect_forked(int fd, uint64_t id);

struct failed {
  uint64_t id;
  int code, phase, error;
  char message[FAILURE_TEXT_MAX + 1], traceback[FAILURE_TEXT_MAX + 1];
  size_t nvalue;
  char value[FAILURE_VALUE_MAX];
};

void parse_failed(const struct answer *a, struct failed *ret);
const struct failed *expect_failed(int fd, unsigned type);

struct exited {
  uint64_t id;
  pid_t pid;
  int status;
  uint64_t maxrss;
  char words[9000];
};

const struct exited *expect_exited(int fd, uint64_t id);
void boot(struct template *t);
void start_with(struct template *t, int pipe_leash);
void start(struct template *t);
int wait_for(pid_t pid);

/* Closes our end and expects that exit code. */
void finish(struct template *t, int code);
void read_text(int fd, char *to, size_t n);
void assert_text(int fd, const char *expected);

#endif
