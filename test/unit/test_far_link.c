/* Processes behind a link (process/far.h), as their parent sees them: what the link tells
 * reaches their records over turns of the loop, and slots over there are given to others
 * when nobody writes to them any more. */
#include "process_kit.h"

#include "parent/process/births.h"
#include "parent/process/far.h"
#include "parent/process/far_direct.h"
#include "parent/process/far_link.h"
#include "parent/rpc/rpc.h"
#include "parent/rpc/rpc_record.h"
#include "wire/link.h"
#include <limits.h>

/* As context.c says. */
enum { TOLD = 64, READ_PIECE = 16 * 1024, READ_A_TURN = 64 * READ_PIECE };
enum { MANY = 400, ROOT_PID = 4000 };

static void say(struct story *s, int near_end, enum link_type type,
                const uint32_t *numbers, unsigned n) {
  struct buf b;
  buf_init(&b, LINK_BODY_MAX);
  assert_int_equal(link_put(&b, type, 0, numbers, n), 0);
  sim_bytes(s->sim, near_end, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
}

/* A template over there that serves; *ret_near: the near end's side of the link. */
static mf_process *make_far_template(struct story *s, int *ret_near, int *ret_far) {
  const char *command[] = {"ssh", "there", NULL};
  mf_options o = MF_OPTIONS_INIT;
  mf_process *t;
  o.command = command;
  assert_int_equal(boot_exec(s->context, &o, &t), 0);
  *ret_near = s->sim->spawned_control;
  *ret_far = sim_far_end(s->sim, t->chan.fd);
  say(s, *ret_near, LINK_BORN,
      (uint32_t[]){LINK_TABLE_NONE, 0, LINK_SERIAL_ROOT, ROOT_PID}, 4);
  answer_hello(s, *ret_far, ROOT_PID);
  sim_run(s->sim);
  assert_int_equal(t->state, SERVING);
  assert_int_equal(t->pid, ROOT_PID);
  return t;
}

/* A clone of it in its function, whose serial and pid are that number. */
static mf_process *make_far_running(struct story *s, mf_process *t, int near_end, int far,
                                    uint32_t number) {
  struct frame f;
  int fds[SIM_QUEUE];
  uint32_t table, index;
  mf_process *q;
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  while (sim_command(s->sim, far, &f, fds))
    ;
  births_place(q->births, q->slot, &table, &index);
  say(s, near_end, LINK_BORN, (uint32_t[]){table, index, number, number}, 4);
  sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, number, NULL, 0);
  sim_run(s->sim);
  assert_int_equal(q->state, RUNNING);
  assert_int_equal(q->pid, (int)number);
  return q;
}

static void say_end(struct story *s, int near_end, uint32_t serial) {
  struct link_end e = {.serial = serial};
  struct buf b;
  buf_init(&b, LINK_BODY_MAX);
  assert_int_equal(link_put_end(&b, &e), 0);
  sim_bytes(s->sim, near_end, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
}

static mf_process *clones[MANY];

static int count_dead(void) {
  int n = 0;
  for (int i = 0; i < MANY; i++)
    n += clones[i]->state == DEAD;
  return n;
}

/* A link that breaks, or that tells of all ends in one piece, made one turn of all of its
 * processes. */
static void test_processes_of_a_link_learn_of_its_end_over_turns(void **state) {
  for (int breaks = 0; breaks <= 1; breaks++) {
    struct story *s = story_new();
    int near_end, far, dead = 0, turns = 0;
    mf_process *t = make_far_template(s, &near_end, &far);
    for (int i = 0; i < MANY; i++) {
      clones[i] = make_far_running(s, t, near_end, far, (uint32_t)i + 1);
      assert_int_equal(mf_on_exit(clones[i], on_exit_told, s), 0);
    }
    if (breaks)
      sim_hang_up(s->sim, near_end);
    for (int i = 0; !breaks && i < MANY; i++)
      say_end(s, near_end, (uint32_t)i + 1);
    for (; dead < MANY && turns < 100; turns++) {
      int before = dead;
      sim_step(s->sim);
      dead = count_dead();
      assert_true(dead - before <= TOLD);
    }
    assert_int_equal(dead, MANY);
    assert_true(turns >= MANY / TOLD);
    sim_run(s->sim);
    assert_int_equal(s->exits, MANY);
    assert_int_equal(s->exit_known, !breaks);
    for (int i = 0; i < MANY; i++)
      mf_close(clones[i], NULL, NULL);
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

/* Those that are made while the others learn of it learn of it, too. */
static void test_one_that_is_made_meanwhile_learns_of_it(void **state) {
  struct story *s = story_new();
  int near_end, far;
  mf_process *t = make_far_template(s, &near_end, &far), *q = NULL;
  for (int i = 0; i < MANY; i++)
    clones[i] = make_far_running(s, t, near_end, far, (uint32_t)i + 1);
  s->runs = 0;
  sim_hang_up(s->sim, near_end);
  sim_step(s->sim);
  assert_in_range(count_dead(), 0, MANY - 1);
  if (mf_fork(t, &q) == 0)
    mf_run(q, "f", on_run, s);
  sim_run(s->sim);
  assert_int_equal(count_dead(), MANY);
  assert_int_equal(s->runs, 1);
  assert_int_equal(s->run_started, MF_STARTED_NO);
  for (int i = 0; i < MANY; i++)
    mf_close(clones[i], NULL, NULL);
  close_both(q, t);
  story_free(s);
}

/* What a near end has to say was read at once, whatever its length. */
static void test_a_long_report_is_read_over_turns(void **state) {
  enum { FRAMES = 200 };
  struct story *s = story_new();
  int near_end, far;
  mf_process *t = make_far_template(s, &near_end, &far);
  struct sim_fd *ours = &s->sim->fd[s->sim->fd[near_end].peer];
  static char text[LINK_TEXT_MAX];
  struct buf b;
  buf_init(&b, SIZE_MAX);
  for (int i = 0; i < 2 * FRAMES; i++)
    assert_int_equal(link_put_bytes(&b, LINK_PRINTED, text, sizeof text), 0);
  sim_bytes(s->sim, near_end, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
  size_t before = ours->nread, all = buf_size(&ours->rx);
  assert_true(all > 2 * READ_A_TURN);
  far_link_read(t->far);
  assert_in_range(ours->nread - before, 1, READ_A_TURN + READ_PIECE);
  while (ours->nread - before < all) {
    size_t now = ours->nread;
    sim_step(s->sim);
    assert_in_range(ours->nread - now, 1, READ_A_TURN + 2 * READ_PIECE);
  }
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* Control characters of two bytes reached the terminal when they came in two pieces. */
static void test_what_is_printed_in_pieces_has_no_control_characters(void **state) {
  static const char *pieces[] = {"a\xc2", "\x9b[31m\xc2", "\x85\xc3", "\x9b\x1b", ""};
  struct story *s = story_new();
  int near_end, far;
  mf_process *t = make_far_template(s, &near_end, &far);
  struct buf b;
  buf_init(&b, SIZE_MAX);
  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
    assert_int_equal(link_put_bytes(&b, LINK_PRINTED, pieces[i], strlen(pieces[i])), 0);
  sim_bytes(s->sim, near_end, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
  sim_run(s->sim);
  assert_string_equal(far_link_printed(t->far), "a\xc2?[31m\xc2?\xc3\x9b?");
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* Two that wrote their errors to one slot lost one of them. */
static void test_the_slot_of_a_far_process_is_not_given_away(void **state) {
  struct story *s = story_new();
  int near_end, far;
  mf_process *t = make_far_template(s, &near_end, &far);
  mf_process *keeper = make_far_running(s, t, near_end, far, 1), *q;
  uint32_t slot, taken = 0;
  q = make_far_running(s, t, near_end, far, 2);
  slot = q->slot;
  mf_close(q, NULL, NULL);
  sim_run(s->sim);
  for (uint32_t i = 3; i < 3 + MANY; i++) {
    clones[i - 3] = make_far_running(s, t, near_end, far, i);
    assert_int_not_equal(clones[i - 3]->slot, slot);
  }
  say_end(s, near_end, 2);
  for (uint32_t i = 3; i < 3 + MANY; i++) { /* each in its own, which is free then */
    say_end(s, near_end, i);
    sim_run(s->sim);
    mf_close(clones[i - 3], NULL, NULL);
  }
  sim_run(s->sim);
  uint32_t last = 3 + MANY;
  for (; !taken && last < 3 + MANY + 2000; last++) {
    q = make_far_running(s, t, near_end, far, last);
    taken = q->slot == slot;
    mf_close(q, NULL, NULL); /* it runs on */
    sim_run(s->sim);
  }
  assert_true(taken);
  close_both(keeper, t);
  story_free(s);
}

static void drain_commands(struct story *s, int far) {
  struct frame f;
  int fds[SIM_QUEUE];
  while (sim_command(s->sim, far, &f, fds))
    ;
}

static void be_born(struct story *s, const mf_process *q, int near_end, uint32_t number) {
  uint32_t table, index;
  births_place(q->births, q->slot, &table, &index);
  say(s, near_end, LINK_BORN, (uint32_t[]){table, index, number, number}, 4);
}

/* A link is read when somebody waits for an end. Nobody does for that of a process whose
 * handle was closed while it ran, though its record stays as long as one that it has
 * forked: it wakes nobody. */
static void test_who_was_closed_is_not_waited_for(void **state) {
  struct story *s = story_new();
  int near_end, far;
  mf_process *t = make_far_template(s, &near_end, &far), *q, *r;
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_fork(q, &r), 0);
  assert_int_equal(mf_run(r, "f", on_run, s), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  drain_commands(s, far);
  int q_far = sim_far_end(s->sim, q->chan.fd);
  drain_commands(s, q_far);
  int r_far = sim_far_end(s->sim, r->chan.fd);
  be_born(s, q, near_end, 1);
  be_born(s, r, near_end, 2);
  sim_answer(s->sim, q_far, ANS_RUNNING, 1, NULL, 0);
  sim_answer(s->sim, r_far, ANS_RUNNING, 2, NULL, 0);
  sim_run(s->sim);
  assert_int_equal(q->state, RUNNING);
  assert_int_equal(r->state, RUNNING);
  assert_int_equal(t->far->nawaited, 2);
  mf_close(q, NULL, NULL);
  sim_run(s->sim);
  assert_false(list_empty(&q->forks));
  assert_int_equal(t->far->nawaited, 1);
  assert_int_equal(t->far->nknown, 2);
  say_end(s, near_end, 2);
  sim_run(s->sim);
  assert_int_equal(r->state, DEAD);
  assert_int_equal(t->far->nawaited, 0);
  assert_int_equal(t->far->watch.events, WATCH_HANGUP);
  mf_close(r, NULL, NULL);
  mf_close(t, NULL, NULL);
  story_free(s);
}

static uint32_t told; /* whose socket ended */

static void on_unmade_socket(struct far_fork *fork, int fd) {
  assert_int_equal(fd, -1);
  told++;
}

/* The link of a far template that takes forks. Those that are answered without a socket
 * are counted in `told`. */
static struct far_link *make_fork_link(struct story *s, mf_process **ret_template,
                                       int *ret_near_end, int *ret_far_end) {
  static struct far_ops ops;
  struct far_link *far;
  *ret_template = make_far_template(s, ret_near_end, ret_far_end);
  far = (*ret_template)->far;
  ops = *far->ops;
  ops.on_socket = on_unmade_socket;
  told = 0;
  far->ops = &ops;
  far->page->takes_forks = 1;
  far->page->root_limit = 1 << 20;
  return far;
}

static int ask(struct far_link *far, struct far_fork *fork) {
  struct link_fork command = {.command = (const unsigned char *)"f", .n = 1};
  return far_fork(far, fork, &command, "ork", 4);
}

/* Forks that were forgotten had no place any more, while the near end might still hold
 * their sockets: it then had none for those of later forks, whose words were lost. */
static void test_forgotten_forks_count_until_they_are_answered(void **state) {
  struct story *s = story_new();
  int near_end, far_end;
  mf_process *t;
  struct far_link *far = make_fork_link(s, &t, &near_end, &far_end);
  struct far_fork forks[LINK_FORKS_MAX], another;
  uint32_t tokens[LINK_FORKS_MAX];
  for (int i = 0; i < LINK_FORKS_MAX; i++) {
    assert_int_equal(far_fork_may(far, 5, 0), 1);
    assert_int_equal(ask(far, &forks[i]), 0);
    tokens[i] = forks[i].token;
  }
  assert_int_equal(far_fork_may(far, 5, 0), 0);
  for (int i = 0; i < LINK_FORKS_MAX; i++) {
    far_fork_forget(far, &forks[i]);
    assert_int_equal(far_fork_may(far, 5, 0), 0);
  }
  assert_true(far->watch.events & WATCH_READ); /* for the answers */
  say(s, near_end, LINK_ENDED, &tokens[0], 1);
  sim_run(s->sim);
  assert_int_equal(far_fork_may(far, 5, 0), 1);
  assert_int_equal(ask(far, &another), 0);
  assert_int_equal(far_fork_may(far, 5, 0), 0);
  for (int i = 1; i < LINK_FORKS_MAX; i++)
    say(s, near_end, LINK_ENDED, &tokens[i], 1);
  sim_run(s->sim);
  assert_int_equal(told, 0);
  say(s, near_end, LINK_ENDED, &another.token, 1);
  sim_run(s->sim);
  assert_int_equal(told, 1);
  assert_int_equal(far_link_is_lost(far), 0);
  say(s, near_end, LINK_ENDED, &tokens[0], 1); /* nothing was asked */
  far_link_listen(far);
  sim_run(s->sim);
  assert_int_equal(far_link_is_lost(far), 1);
  far_fork_forget(far, &another);
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* What has come to that end, and is taken from there. */
static unsigned next_of(struct story *s, int end, struct link_frame *ret) {
  struct buf *rx = &s->sim->fd[end].rx;
  if (link_next(rx, LINK_SIDE_LAST, ret) != 0)
    return 0;
  link_done(rx, ret);
  return ret->type;
}

static void test_forks_that_the_program_writes_itself(void **state) {
  struct story *s = story_new();
  int near_end, far_end, input[2];
  mf_process *t;
  struct far_link *far = make_fork_link(s, &t, &near_end, &far_end);
  struct far_fork forks[5];
  struct link_frame f;
  assert_int_equal(s->context->backend->ops->pair(s->context->backend, input), 0);
  far->input = input[0];
  far_end = sim_far_end(s->sim, input[0]);
  while (next_of(s, near_end, &f))
    ;
  far->page->npassed = (uint32_t)far->page->nsaid;
  assert_int_equal(ask(far, &forks[0]), 0);
  assert_int_equal(next_of(s, far_end, &f), LINK_CLONE);
  assert_int_equal(f.channel, LINK_EARLY_FIRST);
  assert_int_equal(next_of(s, near_end, &f), 0);
  assert_int_equal(far->page->nearly, 1);
  assert_int_equal(far->page->early[0].token, forks[0].token);
  assert_int_equal(far->page->early[0].size, 5);
  far->page->is_claimed = 1; /* the near end writes */
  assert_int_equal(ask(far, &forks[1]), 0);
  assert_int_equal(next_of(s, near_end, &f), LINK_FORK);
  far->page->is_claimed = 0;
  assert_int_equal(ask(far, &forks[2]), 0);
  assert_int_equal(next_of(s, near_end, &f), LINK_FORK); /* the side was not passed on */
  far->page->npassed = (uint32_t)far->page->nsaid;
  s->sim->send_error = -EPIPE; /* nobody reads it */
  assert_int_equal(ask(far, &forks[3]), 0);
  assert_int_equal(next_of(s, near_end, &f), LINK_FORK);
  assert_int_equal(far->page->nbegun, 1);
  far->page->npassed = (uint32_t)far->page->nsaid;
  assert_int_equal(ask(far, &forks[4]), 0);
  assert_int_equal(next_of(s, far_end, &f), LINK_CLONE);
  assert_int_equal(f.channel, LINK_EARLY_FIRST + 4);
  assert_int_equal(far->nasked, 5);
  for (int i = 0; i < 5; i++)
    far_fork_forget(far, &forks[i]);
  mf_close(t, NULL, NULL);
  sim_run(s->sim);
  s->context->backend->ops->close(s->context->backend, &input[1]);
  story_free(s);
}

/* A socket of so many bytes, in one piece. */
static size_t write_direct(struct far_link *far, struct far_direct *d, uint64_t nsocket,
                           size_t n) {
  static char bytes[PIPE_BUF];
  const struct iovec iov = {bytes, n};
  return far_direct_write(far, d, nsocket, &iov, 1);
}

enum { COOKIE = 77, BEFORE = 5, SAID = 100, SOME = 60 };

/* The near end's answer: so many bytes of the socket stand in the stream. */
static void permit(struct far_link *far, const struct far_direct *d, uint32_t npassed) {
  struct link_direct *at = &far->page->direct[d->place];
  at->channel = LINK_NEAR_FIRST;
  at->npassed = npassed;
  at->limit = SAID + 2 * SOME;
  at->ticket = d->ticket;
  far->page->npassed = (uint32_t)far->page->nsaid;
}

static void test_requests_that_the_program_writes_itself(void **state) {
  struct story *s = story_new();
  int near_end, far_end, input[2];
  mf_process *t = make_far_template(s, &near_end, &far_end);
  struct far_link *far = t->far;
  struct far_direct d = {0}, other = {0};
  struct link_frame f;
  uint32_t numbers[4];
  assert_int_equal(s->context->backend->ops->pair(s->context->backend, input), 0);
  while (next_of(s, near_end, &f))
    ;
  far_direct_expect(far, &d, -1, COOKIE); /* the input was not given yet */
  far->input = input[0];
  far_end = sim_far_end(s->sim, input[0]);
  for (int i = 0; i < BEFORE - 1; i++)
    far_direct_expect(far, &d, -1, COOKIE);
  assert_int_equal(next_of(s, near_end, &f), 0);
  assert_int_equal(write_direct(far, &d, SAID, SOME), 0);
  far_direct_expect(far, &d, -1, COOKIE);
  assert_int_equal(next_of(s, near_end, &f), LINK_DIRECT);
  assert_int_equal(link_numbers(&f, numbers, 4), 0);
  assert_int_equal(numbers[0], d.place);
  assert_int_equal(numbers[1], d.ticket);
  assert_int_equal(numbers[2], COOKIE);
  far_direct_expect(far, &d, -1, COOKIE); /* once */
  assert_int_equal(next_of(s, near_end, &f), 0);
  assert_int_equal(write_direct(far, &d, SAID, SOME), 0); /* no permission */
  permit(far, &d, SAID - 1);
  assert_int_equal(write_direct(far, &d, SAID, SOME), 0); /* it would overtake a byte */
  permit(far, &d, SAID);
  far->page->npassed--;
  assert_int_equal(write_direct(far, &d, SAID, SOME), 0); /* what was said on the side */
  permit(far, &d, SAID);
  assert_int_equal(buf_put(&far->out, "x", 1), 0); /* what is not even said there */
  assert_int_equal(write_direct(far, &d, SAID, SOME), 0);
  buf_consume(&far->out, 1);
  far->page->is_claimed = 1;
  assert_int_equal(write_direct(far, &d, SAID, SOME), 0);
  far->page->is_claimed = 0;
  assert_int_equal(write_direct(far, &d, SAID, PIPE_BUF - LINK_HEADER_SIZE + 1), 0);
  assert_int_equal(write_direct(far, &d, SAID, 2 * SOME + 1), 0); /* beyond the window */
  assert_int_equal(next_of(s, far_end, &f), 0);
  assert_int_equal(write_direct(far, &d, SAID, SOME), SOME);
  assert_int_equal(next_of(s, far_end, &f), LINK_DATA);
  assert_int_equal(f.channel, LINK_NEAR_FIRST);
  assert_int_equal(f.length, SOME);
  assert_int_equal(far->page->nearly, 1);
  assert_int_equal(far->page->early[0].token, 0);
  assert_int_equal(far->page->early[0].size, SOME);
  s->sim->send_error = -EPIPE;
  assert_int_equal(write_direct(far, &d, SAID, SOME), 0);
  assert_int_equal(far->page->nbegun, 1);
  assert_int_equal(write_direct(far, &d, SAID, SOME + 1), 0);
  assert_int_equal(write_direct(far, &d, SAID, SOME), SOME);
  assert_int_equal(d.nwritten, 2 * SOME);
  unsigned place = d.place;
  uint32_t ticket = d.ticket;
  far_direct_end(far, &d);
  assert_int_equal(write_direct(far, &d, SAID, 1), 0);
  for (int i = 0; i < BEFORE; i++)
    far_direct_expect(far, &other, -1, COOKIE + 1);
  assert_int_equal(other.place, place);
  assert_int_not_equal(other.ticket, ticket);
  assert_int_equal(write_direct(far, &other, SAID, 1), 0); /* that of the other one */
  mf_close(t, NULL, NULL);
  sim_run(s->sim);
  s->context->backend->ops->close(s->context->backend, &input[1]);
  story_free(s);
}

/* An rpc that ended kept its place: after some tens of them over one link no other got one,
 * and each request woke the near end again. */
static void test_an_rpc_that_ends_gives_its_place_back(void **state) {
  struct story *s = story_new();
  int near_end, far_end, input[2];
  mf_process *t = make_far_template(s, &near_end, &far_end), *q;
  struct far_link *far = t->far;
  struct frame command;
  int fds[SIM_QUEUE];
  uint32_t table, index;
  mf_rpc *rpc;
  assert_int_equal(s->context->backend->ops->pair(s->context->backend, input), 0);
  far->input = input[0];
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_rpc_new(q, "f", NULL, &rpc), 0);
  while (sim_command(s->sim, far_end, &command, fds))
    ;
  births_place(q->births, q->slot, &table, &index);
  say(s, near_end, LINK_BORN, (uint32_t[]){table, index, 1, 1}, 4);
  sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, 1, NULL, 0);
  sim_run(s->sim);
  for (int i = 0; i < BEFORE; i++)
    far_direct_expect(far, &rpc->direct, -1, COOKIE);
  assert_int_equal(far->places, 1);
  mf_rpc_abort(rpc);
  assert_int_equal(far->places, 0);
  mf_rpc_close(rpc, NULL, NULL);
  say_end(s, near_end, 1);
  sim_run(s->sim);
  mf_close(t, NULL, NULL);
  sim_run(s->sim);
  s->context->backend->ops->close(s->context->backend, &input[1]);
  story_free(s);
}

/* ---- given up before anybody knows whether the function was entered ---- */

/* One whose template has not said hello. *ret_root: the near end's copy of its socket's
 * other end, which no function here closes. */
static mf_process *make_far_process(struct story *s, int *ret_near,
                                    struct sim_fd **ret_root) {
  const char *command[] = {"ssh", "there", NULL};
  mf_options o = MF_OPTIONS_INIT;
  mf_process *t;
  o.command = command;
  assert_int_equal(boot_exec(s->context, &o, &t), 0);
  *ret_near = s->sim->spawned_control;
  *ret_root = &s->sim->fd[sim_far_end(s->sim, t->chan.fd)];
  (*ret_root)->closed = 0;
  t->chan.write_closed = 0;
  return t;
}

/* What the near end passes on to the agent that has greeted may be executed; the greeting
 * had not been read when the process was closed. */
static void test_an_unread_greeting_counts(void **state) {
  for (int greets = 0; greets <= 1; greets++) {
    struct story *s = story_new();
    struct sim_fd *root;
    int near_end;
    mf_process *t = make_far_process(s, &near_end, &root);
    assert_int_equal(mf_run(t, "f", on_run, s), 0);
    sim_run(s->sim);
    assert_int_equal(t->state, STARTING);
    if (greets)
      say(s, near_end, LINK_HELLO, NULL, 0);
    mf_close(t, NULL, NULL);
    sim_run(s->sim);
    assert_int_equal(s->runs, 1);
    assert_int_equal(s->run_error, MF_ECANCELLED);
    assert_int_equal(s->run_started, greets ? MF_STARTED_UNKNOWN : MF_STARTED_NO);
    root->closed = 1;
    story_free(s);
  }
}

/* The FORK of a clone waits in the near end, and is passed on when an agent greets, unless
 * the link is lost before. */
static void test_a_fork_that_waits_for_the_agent_may_come_to_something(void **state) {
  for (int is_lost = 0; is_lost <= 1; is_lost++) {
    struct story *s = story_new();
    struct sim_fd *root;
    int near_end;
    mf_process *t = make_far_process(s, &near_end, &root), *q;
    assert_int_equal(mf_fork(t, &q), 0);
    assert_int_equal(mf_run(q, "f", on_run, s), 0);
    sim_run(s->sim);
    assert_int_equal(q->state, STARTING);
    if (is_lost)
      sim_hang_up(s->sim, near_end);
    mf_close(q, NULL, NULL);
    sim_run(s->sim);
    assert_int_equal(s->runs, 1);
    assert_int_equal(s->run_started, is_lost ? MF_STARTED_NO : MF_STARTED_UNKNOWN);
    root->closed = 1;
    mf_close(t, NULL, NULL);
    story_free(s);
  }
}

static void fork_and_end(struct story *s, struct far_link *far, int near_end) {
  struct far_fork fork;
  uint32_t before = told;
  assert_int_equal(ask(far, &fork), 0);
  far_fork_attend(far, &fork, 0);
  say(s, near_end, LINK_ENDED, &fork.token, 1);
  sim_run(s->sim);
  assert_int_equal(told, before + 1);
  far_fork_forget(far, &fork);
}

/* The report of each end was on the way of the next fork, though nobody waited for it. Who
 * forks one after the other, and waits for none, says so; and says so no more when it
 * waits. */
static void test_a_row_of_forks_is_said_to_be_one(void **state) {
  struct story *s = story_new();
  int near_end, far_end;
  mf_process *t;
  struct far_link *far = make_fork_link(s, &t, &near_end, &far_end);
  far->is_listening = 0; /* nobody waits for an end */
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < 4; i++) {
      assert_int_equal(far_fork_is_row(far), 0);
      fork_and_end(s, far, near_end);
    }
    assert_int_equal(far_fork_is_row(far), 1);
    uint64_t nsaid = far->page->nsaid;
    far_link_listen(far);
    assert_int_equal(far->page->nsaid - nsaid, LINK_HEADER_SIZE + 3 * sizeof(uint32_t));
    far_link_listen(far); /* once is enough */
    assert_int_equal(far->page->nsaid - nsaid, LINK_HEADER_SIZE + 3 * sizeof(uint32_t));
    far->is_listening = 0;
  }
  mf_close(t, NULL, NULL);
  story_free(s);
}

/* The side was watched for the answer of a fork when the process was claimed, so the row
 * went on: whose end was waited for by callbacks was told of it late, or not at all. */
static void test_a_row_ends_with_a_process_whose_answer_was_watched(void **state) {
  struct story *s = story_new();
  int near_end, far_end;
  mf_process *t = make_far_template(s, &near_end, &far_end);
  struct far_link *far = t->far;
  far->nasked++;
  far->nrow = 4;
  far->is_row = 1;
  far_link_watch(far);
  assert_int_equal(far->watch.events, WATCH_READ);
  mf_process *q = make_far_running(s, t, near_end, far_end, 1);
  sim_run(s->sim);
  assert_int_equal(far->nawaited, 1);
  assert_int_equal(far->nrow, 0);
  assert_int_equal(far->is_row, 0);
  far->nasked--;
  close_both(q, t);
  story_free(s);
}

/* Who polls for the answer of its fork itself needs no loop that watches for it, in which
 * each answer took four system calls; who has asked and does not poll does. */
static void test_an_answer_that_is_polled_for_is_not_watched(void **state) {
  struct story *s = story_new();
  int near_end, far_end;
  mf_process *t;
  struct far_link *far = make_fork_link(s, &t, &near_end, &far_end);
  struct far_fork forks[2];
  far->is_listening = 0; /* nobody waits for an end */
  for (int i = 0; i < 2; i++) {
    assert_int_equal(ask(far, &forks[i]), 0);
    far_fork_attend(far, &forks[i], i == 0);
    assert_int_equal(far->watch.events, i == 0 ? WATCH_HANGUP : WATCH_READ);
    assert_int_equal(far_fork_attended_fd(far, &forks[i]), i == 0 ? far->fd : -1);
  }
  told = 0;
  say(s, near_end, LINK_ENDED, &forks[1].token, 1);
  sim_run(s->sim);
  assert_int_equal(told, 1);
  assert_int_equal(far->watch.events, WATCH_HANGUP);
  say(s, near_end, LINK_ENDED, &forks[0].token, 1);
  sim_run(s->sim);
  assert_int_equal(told, 1);
  context_enter(far->context);
  far_link_look(far);
  context_leave(far->context);
  assert_int_equal(told, 2);
  far_fork_forget(far, &forks[0]);
  far_fork_forget(far, &forks[1]);
  assert_int_equal(ask(far, &forks[0]), 0);
  far_fork_attend(far, &forks[0], 1);
  far_fork_forget(far, &forks[0]); /* its answer comes all the same */
  assert_int_equal(far->watch.events, WATCH_READ);
  mf_close(t, NULL, NULL);
  story_free(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_processes_of_a_link_learn_of_its_end_over_turns),
      cmocka_unit_test(test_one_that_is_made_meanwhile_learns_of_it),
      cmocka_unit_test(test_a_long_report_is_read_over_turns),
      cmocka_unit_test(test_what_is_printed_in_pieces_has_no_control_characters),
      cmocka_unit_test(test_who_was_closed_is_not_waited_for),
      cmocka_unit_test(test_forgotten_forks_count_until_they_are_answered),
      cmocka_unit_test(test_forks_that_the_program_writes_itself),
      cmocka_unit_test(test_requests_that_the_program_writes_itself),
      cmocka_unit_test(test_an_rpc_that_ends_gives_its_place_back),
      cmocka_unit_test(test_an_unread_greeting_counts),
      cmocka_unit_test(test_a_fork_that_waits_for_the_agent_may_come_to_something),
      cmocka_unit_test(test_a_row_of_forks_is_said_to_be_one),
      cmocka_unit_test(test_a_row_ends_with_a_process_whose_answer_was_watched),
      cmocka_unit_test(test_an_answer_that_is_polled_for_is_not_watched),
      cmocka_unit_test(test_the_slot_of_a_far_process_is_not_given_away),
  };
  return cmocka_run_group_tests_name("far link", tests, NULL, NULL);
}
