/* A blocking parent for tests of the template program. */
#include "template_kit.h"

#include "base/result.h"
#include "os/share.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

void read_exactly(int fd, void *to, size_t n) {
  unsigned char *p = to;
  while (n > 0) {
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&poller, 1, TIMEOUT_MS), 1);
    ssize_t got = read(fd, p, n);
    assert_true(got > 0);
    p += got;
    n -= (size_t)got;
  }
}

void next(int fd, struct answer *ret) {
  unsigned char header[FRAME_HEADER_SIZE];
  read_exactly(fd, header, sizeof header);
  assert_int_equal(frame_decode(&ret->f, header, ANS_HELLO, ANS_LAST), 0);
  read_exactly(fd, ret->body, ret->f.length);
}

void expect(int fd, unsigned type, struct answer *ret) {
  do
    next(fd, ret);
  while (ret->f.type == ANS_DONE && type != ANS_DONE);
  if (ret->f.type != type && ret->f.type == ANS_FAILED)
    print_message("failed: %.*s\n", (int)ret->f.length - 12, ret->body + 12);
  assert_int_equal(ret->f.type, type);
}

void expect_done(int fd, uint64_t n) {
  static struct answer a;
  do
    expect(fd, ANS_DONE, &a);
  while (a.f.id < n);
  assert_int_equal(a.f.id, n);
}

void expect_eof(int fd) {
  static struct answer a;
  struct pollfd p = {.fd = fd, .events = POLLIN};
  unsigned char byte;
  for (;;) {
    assert_int_equal(poll(&p, 1, TIMEOUT_MS), 1);
    ssize_t n = recv(fd, &byte, 1, MSG_PEEK);
    if (n == 0 || (n < 0 && errno == ECONNRESET))
      return;
    assert_int_equal(n, 1);
    next(fd, &a);
    assert_int_equal(a.f.type, ANS_DONE); /* nothing else may be left */
  }
}

void send_flags(int fd, unsigned type, uint64_t id, unsigned flags, const void *body,
                size_t n, const int *fds, int nfds) {
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame f = {.length = (uint32_t)n,
                    .type = (uint8_t)type,
                    .nfds = (uint8_t)nfds,
                    .flags = (uint16_t)flags,
                    .id = id};
  frame_encode(header, &f);
  struct iovec iov[2] = {{header, sizeof header}, {(void *)(uintptr_t)body, n}};
  struct iovec *at = iov;
  while (at < iov + 2) {
    if (at->iov_len == 0) {
      at++;
      continue;
    }
    ssize_t sent = sock_send(fd, at, (int)(iov + 2 - at), fds, nfds);
    if (sent == 0) {
      struct pollfd p = {.fd = fd, .events = POLLOUT};
      poll(&p, 1, TIMEOUT_MS);
      continue;
    }
    if (sent < 0)
      return; /* it is gone: what it said last is what the test looks at */
    nfds = 0;
    while (sent > 0) {
      size_t part = (size_t)sent < at->iov_len ? (size_t)sent : at->iov_len;
      at->iov_base = (char *)at->iov_base + part;
      at->iov_len -= part;
      sent -= (ssize_t)part;
      if (at->iov_len == 0)
        at++;
    }
  }
}

void put(int fd, unsigned type, uint64_t id, const void *body, size_t n) {
  send_flags(fd, type, id, 0, body, n, NULL, 0);
}

void put_text(int fd, unsigned type, const char *text) {
  put(fd, type, 0, text, strlen(text));
}

void put_eval(int fd, const char *code) {
  struct buf b;
  buf_init(&b, 1 << 20);
  buf_put_u32(&b, 0);
  buf_put_str(&b, code, strlen(code));
  put(fd, CMD_EVAL, 0, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
}

void option(struct buf *b, unsigned tag, const void *value, size_t n) {
  buf_put_u8(b, tag);
  buf_put_u32(b, (uint32_t)n);
  buf_put(b, value, n);
}

void option_byte(struct buf *b, unsigned tag, unsigned value) {
  unsigned char byte = (unsigned char)value;
  option(b, tag, &byte, 1);
}

void setup_with(int fd, int pipe_leash) {
  struct buf b;
  buf_init(&b, 4096);
  buf_put_u32(&b, PROTO_MAGIC);
  buf_put_u16(&b, PROTO_VERSION);
  buf_put_u16(&b, 0);
  build_put(&b);
  option(&b, OPT_NAME, "test", 4);
  if (pipe_leash)
    option_byte(&b, OPT_PIPE_LEASH, 1);
  put(fd, CMD_SETUP, (uint64_t)getpid(), buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
}

struct shared shared;

void share(void) {
  void *births, *words;
  assert_int_equal(share_new(slot_births_size(SLOTS), &shared.births_fd, &births), 0);
  assert_int_equal(share_new(slot_words_size(SLOTS), &shared.words_fd, &words), 0);
  shared.births = births;
  shared.words = words;
}

void unshare_all(void) {
  share_unmap((void *)(uintptr_t)shared.births, slot_births_size(SLOTS));
  share_unmap(shared.words, slot_words_size(SLOTS));
  close(shared.births_fd);
  close(shared.words_fd);
}

int put_fork_again(int fd, uint64_t id, struct buf *options, const int *fds, int nfds) {
  int pair[2], all[FRAME_FDS_MAX];
  unsigned char step[8] = {0, 0, 0, 0, SLOTS & 0xff, SLOTS >> 8};
  unsigned char slot[4] = {(unsigned char)id, (unsigned char)(id >> 8)};
  struct buf b;
  assert_int_equal(sock_pair(pair, 0), 0);
  all[0] = pair[1];
  all[1] = shared.births_fd;
  all[2] = shared.words_fd;
  for (int i = 0; i < nfds; i++)
    all[i + 3] = fds[i];
  buf_init(&b, 1 << 20);
  option(&b, OPT_SLOT_STEP, step, sizeof step);
  option(&b, OPT_SLOT, slot, sizeof slot);
  if (options)
    buf_put(&b, buf_peek(options), buf_size(options));
  send_flags(fd, CMD_FORK, id, 0, buf_peek(&b), buf_size(&b), all, nfds + 3);
  buf_deinit(&b);
  close(pair[1]);
  return pair[0];
}

int put_fork_with(int fd, uint64_t id, struct buf *options, const int *fds, int nfds) {
  shared.births[id] = 0;
  return put_fork_again(fd, id, options, fds, nfds);
}

int put_fork(int fd, uint64_t id) {
  return put_fork_with(fd, id, NULL, NULL, 0);
}

pid_t expect_forked(int fd, uint64_t id) {
  (void)fd;
  for (int ms = 0; ms < TIMEOUT_MS && !shared.births[id]; ms++)
    poll(NULL, 0, 1);
  pid_t pid = (pid_t)shared.births[id];
  assert_true(pid > 0);
  int r = proc_peek(-1, pid);
  assert_true(r == MF_AGAIN || r == 0);
  return pid;
}

void parse_failed(const struct answer *a, struct failed *ret) {
  struct reader r;
  size_t n;
  const char *text;
  reader_init(&r, a->body, a->f.length);
  ret->id = a->f.id;
  ret->code = (int)reader_u8(&r);
  ret->phase = (int)reader_u8(&r);
  reader_u16(&r);
  ret->error = (int)reader_u32(&r);
  text = reader_str(&r, &n);
  assert_true(n <= FAILURE_TEXT_MAX);
  memcpy(ret->message, text, n);
  ret->message[n] = 0;
  text = reader_str(&r, &n);
  assert_true(n <= FAILURE_TEXT_MAX);
  memcpy(ret->traceback, text ? text : "", n);
  ret->traceback[n] = 0;
  text = reader_left(&r) ? reader_str(&r, &n) : NULL;
  ret->nvalue = text ? n : 0;
  assert_true(ret->nvalue <= FAILURE_VALUE_MAX);
  memcpy(ret->value, text ? text : "", ret->nvalue);
  assert_true(r.ok);
  assert_int_equal(reader_left(&r), 0);
}

const struct failed *expect_failed(int fd, unsigned type) {
  static struct answer a;
  static struct failed f;
  expect(fd, type, &a);
  parse_failed(&a, &f);
  return &f;
}

const struct exited *expect_exited(int fd, uint64_t id) {
  static struct exited e;
  struct proc_status st = {0};
  int r = MF_AGAIN;
  e = (struct exited){.id = id, .pid = expect_forked(fd, id)};
  for (int ms = 0; ms < TIMEOUT_MS && (r = proc_reap(-1, e.pid, &st)) == MF_AGAIN; ms++)
    poll(NULL, 0, 1);
  assert_int_equal(r, 0);
  e.status = st.status;
  e.maxrss = st.maxrss_bytes;
  size_t n = shared.words[id].text_size;
  assert_true(n < sizeof e.words);
  memcpy(e.words, (char *)shared.words + slot_heads_size(SLOTS) + id * SLOT_TEXT_MAX, n);
  e.words[n] = 0;
  return &e;
}

void boot(struct template *t) {
  int pair[2], leash[2], nothing;
  const char *program = getenv("MOONFORK_TEMPLATE");
  assert_non_null(program);
  char *argv[] = {(char *)(uintptr_t)program, (char *)(uintptr_t)PROTO_BOOT_ARG "3,4",
                  NULL};
  extern char **environ;
  assert_int_equal(sock_pair(pair, 0), 0);
  assert_int_equal(pipe2(leash, O_CLOEXEC), 0);
  nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
  struct proc_spawn s = {program, argv,     environ,
                         pair[1], leash[0], {nothing, -1, nothing}};
  if (getenv("TEMPLATE_STDERR"))
    s.stdio[2] = -1;
  assert_int_equal(proc_spawn(&s, &t->pid), 0);
  close(pair[1]);
  close(leash[0]);
  close(nothing);
  t->fd = pair[0];
  t->leash = leash[1];
}

void start_with(struct template *t, int pipe_leash) {
  static struct answer a;
  share();
  boot(t);
  setup_with(t->fd, pipe_leash);
  expect(t->fd, ANS_HELLO, &a);
  assert_int_equal(a.f.id, t->pid);
  expect_done(t->fd, 1);
}

void start(struct template *t) {
  start_with(t, 0);
}

int wait_for(pid_t pid) {
  int status = -1;
  for (int ms = 0; ms < TIMEOUT_MS; ms++) {
    pid_t r = waitpid(pid, &status, WNOHANG);
    if (r == pid)
      return status;
    assert_int_equal(r, 0);
    poll(NULL, 0, 1);
  }
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  fail_msg("the template did not end");
  return status;
}

void finish(struct template *t, int code) {
  if (shared.births) {
    unshare_all();
    shared.births = NULL;
  }
  if (t->fd >= 0)
    close(t->fd);
  int status = wait_for(t->pid);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), code);
  close(t->leash);
}

void read_text(int fd, char *to, size_t n) {
  size_t at = 0;
  for (;;) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, TIMEOUT_MS), 1);
    ssize_t got = read(fd, to + at, n - 1 - at);
    assert_true(got >= 0);
    if (got == 0)
      break;
    at += (size_t)got;
  }
  to[at] = 0;
}

void assert_text(int fd, const char *expected) {
  static char text[65536];
  read_text(fd, text, sizeof text);
  assert_string_equal(text, expected);
}
