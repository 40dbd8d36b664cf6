/* Forks without a socket, as the agent sees them: what the template and its clones say at
 * the intake, and what anybody else may say there. Processes of this test play the
 * clones. */
#include "mux_kit.h"

#include "os/sock.h"
#include "remote/intake.h"
#include "wire/frame.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __linux__

enum { WINDOW = 8192, TABLE = 3 };

static struct mux mux;
static struct intake intake;
static uv_loop_t loop;
static struct turn turns;
static int peer, template, theirs; /* stream, control socket, intake: the others' ends */
static uint32_t last_channel;
static uint64_t last_id;
static int ended;

static int on_frame(struct mux *m, const struct link_frame *f) {
  return -EPROTO;
}

static void on_end(struct mux *m, const char *text) {
  ended++;
}

static void on_quiet(struct mux *m) {
}

static void on_command(struct mux *m) {
  intake_reset(&intake);
}

static int take_fork(struct mux *m, uint32_t channel, const struct link_fork *fork,
                     unsigned char *command) {
  return intake_take(&intake, channel, fork, command);
}

static void on_number_free(struct mux *m, uint32_t channel) {
  intake_forget(&intake, channel);
}

static const struct mux_ops ops = {.on_frame = on_frame,
                                   .on_end = on_end,
                                   .on_quiet = on_quiet,
                                   .on_command = on_command,
                                   .on_number_free = on_number_free,
                                   .take_fork = take_fork};

static void before_end(struct intake *i) {
}

static const struct intake_ops intake_ops = {before_end};

static void after(struct turn *t) {
  mux_after(&mux);
}

static void turn(void) {
  for (int i = 0; i < 4; i++)
    turn_once(&turns, 0);
}

static int setup(void **state) {
  int stream[2], control[2];
  signal(SIGPIPE, SIG_IGN);
  ended = 0;
  last_channel = 1;
  last_id = 100;
  assert_int_equal(uv_loop_init(&loop), 0);
  assert_int_equal(turn_init(&turns, &loop, after), 0);
  assert_int_equal(mux_init(&mux, &turns, &ops, NULL, 1), 0);
  mux_raise_limit(&mux);
  assert_int_equal(sock_pair(stream, 0), 0);
  assert_int_equal(sock_pair(control, 0), 0);
  peer = stream[1];
  template = control[1];
  assert_int_equal(mux_open(&mux, stream[0], dup(stream[0])), 0);
  assert_int_equal(mux_add(&mux, LINK_CHANNEL_ROOT, control[0], MUX_BOTH), 0);
  intake_init(&intake, &mux, &intake_ops, &theirs);
  assert_true(theirs >= 0);
  intake_begin(&intake, getpid());
  mux_begin(&mux, WINDOW);
  return 0;
}

static int teardown(void **state) {
  assert_int_equal(ended, 0);
  close(theirs);
  close(template);
  close(peer);
  turn_watch(&turns, &intake.ready, -1, 0);
  fd_close(&intake.fd);
  mux_kit_end(&mux, &turns, &loop);
  return 0;
}

/* ---- what comes and goes ---- */

/* A FORK for that slot comes over the link: its channel. */
static uint32_t ask(uint32_t index) {
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame f = {.type = CMD_FORK, .nfds = 1, .id = ++last_id};
  struct link_fork fork = {0, TABLE, index, header, sizeof header};
  struct buf out;
  frame_encode(header, &f);
  buf_init(&out, SIZE_MAX);
  last_channel += 2;
  link_put_clone(&out, last_channel, &fork, NULL, 0);
  assert_int_equal(send(peer, buf_peek(&out), buf_size(&out), 0), buf_size(&out));
  buf_deinit(&out);
  turn();
  return last_channel;
}

/* What the template gets of it; *ret_fd: the socket, or -1. */
static struct frame arrive(int *ret_fd) {
  unsigned char header[FRAME_HEADER_SIZE];
  struct fdset fds;
  struct frame f;
  int truncated;
  fdset_init(&fds);
  assert_int_equal(sock_recv(template, header, sizeof header, 0, &fds, &truncated),
                   sizeof header);
  assert_int_equal(frame_decode(&f, header, CMD_FORK, CMD_FORK), 0);
  assert_int_equal(fds.n, f.nfds);
  *ret_fd = fds.n ? fdset_steal(&fds, 0) : -1;
  return f;
}

static unsigned flags_of_fork(uint32_t index, int has_socket) {
  int fd;
  ask(index);
  struct frame f = arrive(&fd);
  assert_int_equal(fd >= 0, has_socket);
  if (fd >= 0)
    close(fd);
  return f.flags;
}

static void say(int type, uint64_t id, size_t n) {
  unsigned char message[1 + sizeof id] = {(unsigned char)type};
  memcpy(message + 1, &id, sizeof id);
  assert_int_equal(send(theirs, message, n, MSG_DONTWAIT), n);
  turn();
}

static void permit(void) {
  assert_int_equal(flags_of_fork(40, 1), FRAME_ASK);
  say(INTAKE_MAY, last_id, 9);
  assert_int_equal(intake.may, 1);
}

/* A process that says that, hands `passed` in with it, and waits to be ended. */
static pid_t clone_says(int type, int passed) {
  int told[2];
  char byte;
  assert_int_equal(pipe(told), 0);
  pid_t pid = fork();
  if (pid == 0) {
    unsigned char message = (unsigned char)type;
    struct iovec iov = {&message, 1};
    ssize_t n = type ? sock_send(theirs, &iov, 1, &passed, passed >= 0) : 1;
    (void)!write(told[1], "x", n == 1);
    for (;;)
      pause();
  }
  close(told[1]);
  assert_int_equal(read(told[0], &byte, 1), 1);
  close(told[0]);
  return pid;
}

static void end(pid_t pid) {
  assert_true(pid > 1);
  kill(pid, SIGKILL);
  assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* The next frame that goes over the link. */
static struct link_frame next(void) {
  static unsigned char bytes[256];
  unsigned char header[LINK_HEADER_SIZE];
  struct buf in;
  struct link_frame f = {0};
  turn();
  if (recv(peer, header, sizeof header, MSG_DONTWAIT | MSG_PEEK) != sizeof header)
    return f;
  memcpy(bytes, header, sizeof header);
  size_t n = sizeof header + bytes[0];
  assert_int_equal(recv(peer, bytes, n, 0), n);
  buf_init(&in, SIZE_MAX);
  buf_put(&in, bytes, n);
  assert_int_equal(link_next(&in, LINK_LAST, &f), 0);
  f.body = bytes + sizeof header;
  buf_deinit(&in);
  return f;
}

static void is_over(uint32_t channel) {
  struct link_frame f = next();
  assert_int_equal(f.type, LINK_END);
  assert_int_equal(f.channel, channel);
  f = next();
  assert_int_equal(f.type, LINK_RESET);
  assert_int_equal(f.channel, channel);
  assert_false(mux_has(&mux, channel));
}

static void drain(void) {
  while (next().type)
    ;
}

/* ---- */

/* One FORK asks, the others go with sockets until the template has answered; only it may
 * answer, and only what was asked last. Another command ends it. */
static void test_the_template_has_to_permit_it(void **state) {
  assert_int_equal(flags_of_fork(1, 1), FRAME_ASK);
  uint64_t asked = last_id;
  assert_int_equal(flags_of_fork(2, 1), 0);
  say(INTAKE_MAY, asked + 1, 9);
  say(INTAKE_MAY, asked, 8);
  assert_int_equal(intake.may, 0);
  say(INTAKE_MAY, asked, 9);
  assert_int_equal(flags_of_fork(3, 0), FRAME_BARE | FRAME_TELL);
  assert_int_equal(flags_of_fork(4, 0), FRAME_BARE | FRAME_TELL);
  assert_int_equal(flags_of_fork(5, 0), FRAME_BARE);
  struct buf out;
  struct link_frame none;
  buf_init(&out, SIZE_MAX);
  link_put_header(buf_reserve(&out, LINK_HEADER_SIZE + 1), LINK_DATA, 0,
                  LINK_CHANNEL_ROOT, 1);
  buf_commit(&out, LINK_HEADER_SIZE);
  buf_put_u8(&out, 'x');
  assert_int_equal(link_next(&out, LINK_LAST, &none), 0);
  assert_int_equal(send(peer, buf_peek(&out), buf_size(&out), 0), buf_size(&out));
  buf_deinit(&out);
  turn();
  char byte;
  assert_int_equal(recv(template, &byte, 1, MSG_DONTWAIT), 1);
  say(INTAKE_MAY, asked, 9);
  assert_int_equal(flags_of_fork(6, 1), FRAME_ASK);
  intake_end_pending(&intake);
  assert_int_equal(intake.nwaiting, 0);
  drain();
}

/* Where the template never answers, it is asked seldom; all slots of the link are
 * enough. */
static void test_bounds(void **state) {
  unsigned asked = 0;
  for (uint32_t i = 0; i < 130; i++)
    asked += flags_of_fork(i, 1) == FRAME_ASK;
  assert_int_equal(asked, 3);
  drain();
  intake_reset(&intake);
  permit();
  for (uint32_t i = 0; i < LINK_FORKS_MAX; i++)
    assert_true(flags_of_fork(i, 0) & FRAME_BARE);
  assert_int_equal(flags_of_fork(41, 1), 0);
  drain();
  ask(5); /* the slot is another one's now: who waited for it sees nobody any more */
  struct link_frame f = next();
  assert_int_equal(f.type, LINK_END);
  intake_end_pending(&intake);
  assert_int_equal(intake.nwaiting, 0);
  drain();
}

static void test_a_clone_hands_in_its_socket(void **state) {
  int fd, pair[2];
  size_t n;
  permit();
  drain();
  uint32_t channel = ask(7);
  arrive(&fd);
  assert_int_equal(sock_pair(pair, 0), 0);
  pid_t stranger = clone_says(INTAKE_SOCKET, pair[1]);
  turn(); /* nobody knows it */
  assert_int_equal(intake.nwaiting, 1);
  end(stranger);
  pid_t pid = clone_says(INTAKE_SOCKET, pair[1]);
  intake_birth(&intake, TABLE, 7, pid);
  assert_int_equal(send(pair[0], "hello", 5, 0), 5);
  turn();
  struct link_frame f = next();
  assert_int_equal(f.type, LINK_DATA);
  assert_int_equal(f.channel, channel);
  assert_memory_equal(link_bytes(&f, &n), "hello", 5);
  assert_int_equal(intake.nwaiting, 0);
  assert_int_equal(intake_end(&intake, pid, 0), 0);
  end(pid);
  close(pair[1]);
  close(pair[0]);
  is_over(channel);
}

/* Its socket lies there when its end is known; or nothing does. */
static void test_ends(void **state) {
  int fd, pair[2];
  permit();
  drain();
  uint32_t said = ask(1), silent = ask(2), returned = ask(3), pending = ask(4);
  for (int i = 0; i < 4; i++)
    arrive(&fd);
  assert_int_equal(sock_pair(pair, 0), 0);
  pid_t a = clone_says(INTAKE_SOCKET, pair[1]), b = clone_says(0, -1),
        c = clone_says(INTAKE_RETURNED, -1);
  intake_birth(&intake, TABLE, 1, a);
  intake_birth(&intake, TABLE, 2, b);
  intake_birth(&intake, TABLE, 3, c);
  end(a);
  assert_int_equal(intake_end(&intake, a, 0), 0);
  is_over(returned); /* that was said meanwhile */
  assert_true(mux_has(&mux, said));
  end(b); /* they have a copy of it */
  end(c);
  close(pair[1]);
  close(pair[0]);
  is_over(said);
  assert_int_equal(intake_end(&intake, b, 1), 1);
  is_over(silent);
  assert_int_equal(intake_end(&intake, c, 1), 1);
  assert_int_equal(intake_end(&intake, c, 1), 0);
  intake_end_pending(&intake);
  is_over(pending);
}

/* Forks that nobody wants any more, and that say nothing, leave their places to others. */
static void test_unwanted_ones_make_room(void **state) {
  struct buf out;
  permit();
  drain();
  buf_init(&out, SIZE_MAX);
  for (uint32_t i = 0; i < LINK_FORKS_MAX; i++) {
    assert_true(flags_of_fork(i, 0) & FRAME_BARE);
    link_put(&out, LINK_END, last_channel, NULL, 0);
    link_put(&out, LINK_RESET, last_channel, NULL, 0);
  }
  assert_int_equal(send(peer, buf_peek(&out), buf_size(&out), 0), buf_size(&out));
  buf_deinit(&out);
  turn();
  assert_true(flags_of_fork(41, 0) & FRAME_BARE);
  assert_int_equal(intake.nwaiting, 1);
  intake_end_pending(&intake);
  drain();
}

/* A fork that nobody wants, whose clone says nothing for so long that the number of its
 * channel comes again: the socket that it hands in then became the other clone's. */
static void test_a_number_that_comes_again_is_another_forks(void **state) {
  struct buf out;
  int fd, pair[2];
  permit();
  drain();
  buf_init(&out, SIZE_MAX);
  uint32_t channel = ask(1);
  arrive(&fd);
  link_put(&out, LINK_END, channel, NULL, 0);
  link_put(&out, LINK_RESET, channel, NULL, 0);
  assert_int_equal(send(peer, buf_peek(&out), buf_size(&out), 0), buf_size(&out));
  buf_deinit(&out);
  turn();
  last_channel = channel - 2;
  mux.last_ids[0] = last_channel;
  assert_int_equal(ask(2), channel);
  arrive(&fd);
  assert_int_equal(intake.nwaiting, 2);
  assert_int_equal(sock_pair(pair, 0), 0);
  pid_t late = clone_says(INTAKE_SOCKET, pair[1]);
  intake_birth(&intake, TABLE, 1, late);
  assert_int_equal(send(pair[0], "late", 4, 0), 4);
  turn();
  assert_int_equal(intake.nwaiting, 1);
  assert_int_equal(next().type, 0);
  end(late);
  close(pair[0]);
  close(pair[1]);
  assert_int_equal(sock_pair(pair, 0), 0);
  pid_t pid = clone_says(INTAKE_SOCKET, pair[1]);
  intake_birth(&intake, TABLE, 2, pid);
  assert_int_equal(send(pair[0], "hello", 5, 0), 5);
  turn();
  struct link_frame f = next();
  assert_int_equal(f.type, LINK_DATA);
  assert_int_equal(f.channel, channel);
  end(pid);
  close(pair[0]);
  close(pair[1]);
  is_over(channel);
}

/* Whoever has the other end may shut it down. What lies there is read, and the next fork
 * has a socket. */
static void shut_down(int how) {
  int fd, pair[2];
  permit();
  drain();
  uint32_t channel = ask(1);
  arrive(&fd);
  assert_int_equal(sock_pair(pair, 0), 0);
  int many = 0;
  while (many < 100 && send(theirs, "garbage", 7, MSG_DONTWAIT) == 7)
    many++;
  pid_t pid = clone_says(INTAKE_SOCKET, pair[1]);
  intake_birth(&intake, TABLE, 1, pid);
  assert_int_equal(shutdown(theirs, how), 0);
  for (int i = 0; i < 5000 && intake.fd >= 0; i++) { /* a flood makes pauses */
    turn();
    poll(NULL, 0, 1);
  }
  assert_int_equal(intake.nwaiting, 0);
  assert_int_equal(intake.fd, -1); /* else it would be ready for ever */
  assert_true(mux_has(&mux, channel));
  end(pid);
  close(pair[0]);
  close(pair[1]);
  is_over(channel);
  assert_int_equal(flags_of_fork(2, 1), 0);
  drain();
}

static void test_it_is_shut_down(void **state) {
  shut_down(SHUT_RDWR);
}

static void test_it_is_shut_down_for_writing(void **state) {
  shut_down(SHUT_WR);
}

/* Ends that came over the link before it had its socket; and nobody wants it any more. */
static void test_what_the_other_end_said_before(void **state) {
  int fd, pair[2];
  char byte;
  struct buf out;
  permit();
  drain();
  uint32_t shut = ask(1), unwanted = ask(2);
  arrive(&fd);
  arrive(&fd);
  buf_init(&out, SIZE_MAX);
  link_put(&out, LINK_END, shut, NULL, 0);
  link_put(&out, LINK_END, unwanted, NULL, 0);
  link_put(&out, LINK_RESET, unwanted, NULL, 0);
  assert_int_equal(send(peer, buf_peek(&out), buf_size(&out), 0), buf_size(&out));
  buf_deinit(&out);
  turn();
  assert_false(mux_has(&mux, unwanted));
  assert_int_equal(sock_pair(pair, 0), 0);
  pid_t pid = clone_says(INTAKE_SOCKET, pair[1]);
  intake_birth(&intake, TABLE, 1, pid);
  turn();
  assert_int_equal(recv(pair[0], &byte, 1, MSG_DONTWAIT), 0);
  end(pid);
  pid = clone_says(INTAKE_SOCKET, pair[1]);
  intake_birth(&intake, TABLE, 2, pid);
  turn();
  assert_int_equal(intake.nwaiting, 0);
  end(pid);
  close(pair[0]);
  close(pair[1]);
  drain();
}

/* Anybody who has the intake may write: neither descriptors nor memory become more, and
 * the others are served. */
static void test_a_flood(void **state) {
  int fd, pair[2], before = dup(peer);
  close(before);
  permit();
  drain();
  uint32_t channel = ask(1);
  arrive(&fd);
  assert_int_equal(sock_pair(pair, 0), 0);
  struct iovec iov = {(char[]){INTAKE_SOCKET}, 1};
  const int many[3] = {pair[0], pair[1], peer};
  for (int i = 0; i < 300; i++) {
    if (i % 3 == 0)
      sock_send(theirs, &iov, 1, many, 3);
    else
      send(theirs, "garbage that is longer than any", i % 32, MSG_DONTWAIT);
    if (i % 40 == 0)
      turn();
  }
  pid_t pid = clone_says(0, -1);
  intake_birth(&intake, TABLE, 1, pid);
  end(pid);
  assert_int_equal(intake_end(&intake, pid, 0), 0);
  is_over(channel);
  close(pair[0]);
  close(pair[1]);
  int now = dup(peer);
  assert_int_equal(now, before);
  close(now);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_the_template_has_to_permit_it, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_bounds, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_clone_hands_in_its_socket, setup, teardown),
      cmocka_unit_test_setup_teardown(test_ends, setup, teardown),
      cmocka_unit_test_setup_teardown(test_what_the_other_end_said_before, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(test_unwanted_ones_make_room, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_number_that_comes_again_is_another_forks,
                                      setup, teardown),
      cmocka_unit_test_setup_teardown(test_it_is_shut_down, setup, teardown),
      cmocka_unit_test_setup_teardown(test_it_is_shut_down_for_writing, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_flood, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

#else
int main(void) {
  return 0;
}
#endif
