/* An rpc on a world without a kernel: every way in which a call can end, each callback
 * exactly once and later than its call, `started` only on proof, limits, and calls that were
 * given up. */
#include "unit.h"

#include "help/far.h"
#include "parent/common/fork_watch.h"
#include "parent/process/registry.h"
#include "rpc_kit.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>

/* ---- the plain way ---- */

static void test_calls_before_the_process_is_up_are_sent_later(void **state) {
  struct story *s = story_begun();
  struct far_node *w;
  call(s, "one");
  call(s, "two");
  far_run(s->far);
  w = far_worker(s->far, 0);
  assert_int_equal(w->ncalls, 2);
  assert_memory_equal(&w->word[0], "one", 3);
  far_result(s->far, w, 0, "1");
  far_run(s->far);
  assert_int_equal(s->ntold, 1);
  assert_string_equal(s->call[0].text, "1");
  far_result(s->far, w, 0, "2");
  far_run(s->far);
  assert_string_equal(s->call[1].text, "2");
  story_free(s);
}

static void test_orderly_end_comes_after_outstanding_calls(void **state) {
  struct story *s = story_begun();
  call(s, "one");
  far_run(s->far);
  mf_rpc_close(s->rpc, on_gone, s);
  assert_int_equal(call(s, "two"), MF_ECLOSED);
  far_run(s->far);
  assert_int_equal(s->closes, 0);
  assert_true(far_worker(s->far, 0)->ended);
  far_result(s->far, far_worker(s->far, 0), 0, "1");
  far_run(s->far);
  assert_int_equal(s->call[0].code, 0);
  assert_int_equal(s->closes, 1);
  assert_int_equal(s->errors, 0);
  assert_int_equal(s->gone, 1);
  story_free(s);
}

static void test_events_and_results_keep_their_order(void **state) {
  struct story *s = story_begun();
  struct far_node *w;
  call(s, "a");
  call(s, "b");
  far_run(s->far);
  w = far_worker(s->far, 0);
  far_say(s->far, w, RPC_EVENT, 0, "x", 1);
  far_result(s->far, w, 0, "1");
  far_say(s->far, w, RPC_EVENT, 0, "y", 1);
  far_error(s->far, w, 0, 1);
  far_say(s->far, w, RPC_EVENT, 0, "z", 1);
  far_run(s->far);
  assert_string_equal(s->order, "erexe");
  assert_int_equal(s->call[1].code, MF_EREMOTE);
  assert_int_equal(s->call[1].started, MF_STARTED_UNKNOWN);
  assert_int_equal(s->call[1].thrown, 1);
  assert_int_equal(s->call[0].thrown, 0);
  story_free(s);
}

static void test_answer_out_of_order(void **state) {
  struct story *s = story_new();
  struct far_node *w;
  s->options.async = 1;
  begin(s);
  call(s, "a");
  call(s, "b");
  call(s, "c");
  far_run(s->far);
  w = far_worker(s->far, 0);
  far_result(s->far, w, 2, "C");
  far_result(s->far, w, 0, "A");
  far_result(s->far, w, 0, "B");
  far_run(s->far);
  assert_string_equal(s->call[0].text, "A");
  assert_string_equal(s->call[1].text, "B");
  assert_string_equal(s->call[2].text, "C");
  story_free(s);
}

static void test_long_bodies_go_and_come_in_parts(void **state) {
  struct story *s = story_begun();
  size_t n = 3 * FRAME_BODY_MAX + 5, at = 0;
  char *big = calloc(1, n);
  unsigned char header[FRAME_HEADER_SIZE];
  struct far_node *w;
  assert_int_equal(call_with(s, big, n, 0), 0);
  s->sim->send_limit = 100001;
  far_run(s->far);
  w = far_worker(s->far, 0);
  assert_int_equal(w->ncalls, 1);
  while (at < n) {
    size_t part = n - at < 1000 ? n - at : 1000;
    struct frame f = {.type = RPC_RESULT, .length = (uint32_t)part};
    f.id = at ? 0 : w->call[0];
    f.flags = at + part < n ? FRAME_MORE : 0;
    frame_encode(header, &f);
    sim_bytes(s->sim, w->fd, header, sizeof header);
    sim_bytes(s->sim, w->fd, big, part);
    at += part;
  }
  w->ncalls = 0;
  far_run(s->far);
  assert_int_equal(s->ntold, 1);
  assert_int_equal(s->call[0].code, 0);
  free(big);
  story_free(s);
}

/* The caller may change its memory as soon as the call returns, wherever the kernel was
 * full. */
static void test_long_bodies_are_the_callers_again(void **state) {
  static const size_t rooms[] = {
      0, 1, 16, 17, 100000, FRAME_BODY_MAX + 16, FRAME_BODY_MAX + 20};
  size_t n = 2 * FRAME_BODY_MAX + 5, whole = n + 3 * FRAME_HEADER_SIZE;
  unsigned char *big = malloc(n);
  for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
    struct story *s = story_new();
    begin(s);
    far_run(s->far);
    s->far->deaf = 1;
    s->sim->room = rooms[i];
    s->sim->full = !rooms[i];
    for (size_t k = 0; k < n; k++)
      big[k] = (unsigned char)(k * 7 + k / 251);
    assert_int_equal(call_with(s, big, n, 0), 0);
    memset(big, '!', n);
    const struct buf *rx = &s->sim->fd[far_worker(s->far, 0)->fd].rx;
    assert_int_equal(buf_size(rx), rooms[i]);
    s->sim->full = 0;
    sim_run(s->sim);
    assert_int_equal(buf_size(rx), whole);
    for (size_t k = 0; k < n; k++) {
      size_t at = k + (k / FRAME_BODY_MAX + 1) * FRAME_HEADER_SIZE;
      assert_int_equal(buf_peek(rx)[at], (unsigned char)(k * 7 + k / 251));
    }
    s->far->deaf = 0;
    story_free(s);
  }
  free(big);
}

/* Whatever the pieces in which it arrives: the bytes, the order, and what comes behind.
 */
static void answer_in_pieces(size_t piece) {
  struct story *s = story_begun();
  size_t n = FRAME_BODY_MAX + 30000, at = 0;
  unsigned char *bytes = calloc(1, n + 200), *end = bytes;
  struct far_node *w;
  call(s, "a");
  call(s, "b");
  far_run(s->far);
  w = far_worker(s->far, 0);
  for (size_t part = FRAME_BODY_MAX; part; part = part == FRAME_BODY_MAX ? 30000 : 0) {
    struct frame f = {.type = RPC_RESULT, .length = (uint32_t)part};
    f.id = part == FRAME_BODY_MAX ? w->call[0] : 0;
    f.flags = part == FRAME_BODY_MAX ? FRAME_MORE : 0;
    frame_encode(end, &f);
    end += FRAME_HEADER_SIZE;
    for (size_t k = 0; k < part; k++)
      *end++ = (unsigned char)(at++ * 3);
  }
  struct frame last = {.type = RPC_RESULT, .length = 5, .id = w->call[1]};
  frame_encode(end, &last);
  memcpy(end + FRAME_HEADER_SIZE, "short", 5);
  end += FRAME_HEADER_SIZE + 5;
  w->ncalls = 0;
  whole_length = 0;
  s->call[0].keep = 1;
  for (unsigned char *p = bytes; p < end; p += piece) {
    sim_bytes(s->sim, w->fd, p, (size_t)(end - p) < piece ? (size_t)(end - p) : piece);
    sim_run(s->sim);
  }
  assert_string_equal(s->order, "rr");
  assert_int_equal(whole_length, n);
  for (size_t k = 0; k < n; k++)
    assert_int_equal(whole_text[k], (unsigned char)(k * 3));
  assert_string_equal(s->call[1].text, "short");
  free(bytes);
  story_free(s);
}

static void test_long_answers_in_pieces(void **state) {
  static const size_t pieces[] = {997,    4096,           4112,   16400,
                                  100000, FRAME_BODY_MAX, 1 << 20};
  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
    answer_in_pieces(pieces[i]);
}

/* ---- limits ---- */

static void test_full_queues_refuse_and_tell_when_they_have_room(void **state) {
  struct story *s = story_new();
  int n;
  s->options.pending_max = 100;
  begin(s);
  far_run(s->far);
  for (n = 0; call(s, "x") == 0; n++)
    ;
  assert_int_equal(n, 100);
  assert_int_equal(call(s, "x"), MF_ELIMIT);
  far_run(s->far);
  for (int i = 0; i < 49; i++)
    far_result(s->far, far_worker(s->far, 0), 0, "");
  far_run(s->far);
  assert_int_equal(s->drains, 0);
  far_result(s->far, far_worker(s->far, 0), 0, "");
  far_run(s->far);
  assert_int_equal(s->drains, 1);
  assert_int_equal(call(s, "x"), 0);
  story_free(s);
}

static void test_bytes_have_a_limit_but_a_long_call_may_go_alone(void **state) {
  struct story *s = story_new();
  char *big = calloc(1, 300000);
  s->options.queue_bytes_max = 100000;
  s->options.message_max = 300000;
  begin(s);
  assert_int_equal(call_with(s, big, 300001, 0), MF_ELIMIT);
  assert_int_equal(call_with(s, big, 300000, 0), 0);
  assert_int_equal(call_with(s, big, 1, 0), MF_ELIMIT);
  far_run(s->far);
  s->sim->full = 1;
  assert_int_equal(call_with(s, big, 99000, 0), 0);
  assert_int_equal(call_with(s, big, 900, 0), 0);
  assert_int_equal(call_with(s, big, 99, 0), MF_ELIMIT);
  s->sim->full = 0;
  free(big);
  story_free(s);
}

/* What waits goes out over several turns, also where it is read as fast as it is written.
 */
static void test_long_calls_are_spread_over_turns(void **state) {
  enum { EACH = 1 << 20, MANY = 24 };
  enum { MOST = OUTBOX_TURN + OUTBOX_IOV_MAX * FRAME_BODY_MAX };
  struct story *s = story_new();
  char *big = calloc(1, EACH);
  int turns = 0;
  s->options.queue_bytes_max = s->options.message_max = MANY * (EACH + 100);
  begin(s);
  far_run(s->far);
  s->sim->full = 1;
  for (int i = 0; i < MANY; i++)
    assert_int_equal(call_with(s, big, EACH, 0), 0);
  s->sim->full = 0;
  const struct buf *read = &s->sim->fd[far_worker(s->far, 0)->fd].rx;
  size_t before;
  do {
    before = buf_size(read);
    sim_step(s->sim);
    assert_true(buf_size(read) - before <= MOST);
    turns++;
  } while (buf_size(read) != before);
  assert_true(before > (size_t)MANY * EACH);
  assert_true(turns > MANY * EACH / MOST);
  far_run(s->far);
  assert_int_equal(far_worker(s->far, 0)->ncalls, MANY);
  free(big);
  story_free(s);
}

/* The kernel has no room for descriptors under way, or no memory: nothing says when it
 * has, so the rpc itself has to try again. */
static void test_what_the_kernel_cannot_take_now_is_tried_again(void **state) {
  static const int errors[] = {-ETOOMANYREFS, -ENOBUFS, -ENOMEM};
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
    struct story *s = story_new();
    begin(s);
    far_run(s->far);
    for (int times = 1; times <= 3; times++) {
      s->sim->send_error = errors[i];
      assert_int_equal(call(s, "again"), 0);
      far_run(s->far);
      assert_int_equal(far_worker(s->far, 0)->ncalls, 0);
      for (int more = 1; more < times; more++) { /* it fails again */
        s->sim->send_error = errors[i];
        far_advance(s->far, 10);
        assert_int_equal(s->sim->send_error, 0);
        assert_int_equal(far_worker(s->far, 0)->ncalls, 0);
      }
      far_advance(s->far, 10);
      assert_int_equal(far_worker(s->far, 0)->ncalls, 1);
      far_result(s->far, far_worker(s->far, 0), 0, "done");
      far_run(s->far);
      assert_string_equal(s->call[s->ncalls - 1].text, "done");
    }
    s->sim->send_error = errors[i]; /* and the end is written, too */
    story_free(s);
  }
}

/* ---- time and cancelling ---- */

static void test_late_answers_are_dropped_and_counted(void **state) {
  struct story *s = story_begun();
  mf_rpc_stats stats = {.size = sizeof stats};
  struct far_node *w;
  call_with(s, "a", 1, 50);
  call_with(s, "b", 1, 0);
  far_run(s->far);
  assert_int_equal(mf_rpc_cancel(s->rpc, s->id[1]), 0);
  assert_int_equal(mf_rpc_cancel(s->rpc, s->id[1]), -ESRCH);
  assert_int_equal(s->ntold, 0);
  far_run(s->far);
  assert_int_equal(s->call[1].code, MF_ECANCELLED);
  far_advance(s->far, 49);
  assert_int_equal(s->ntold, 1);
  far_advance(s->far, 1);
  assert_int_equal(s->call[0].code, MF_ETIMEOUT);
  assert_int_equal(s->call[0].started, MF_STARTED_UNKNOWN);
  w = far_worker(s->far, 0);
  far_result(s->far, w, 0, "late a");
  call(s, "c");
  far_run(s->far);
  far_result(s->far, w, 1, "c");
  far_result(s->far, w, 0, "late b");
  far_run(s->far);
  assert_string_equal(s->call[2].text, "c");
  mf_rpc_get_stats(s->rpc, &stats);
  assert_int_equal(stats.late, 2);
  assert_int_equal(stats.pending, 0);
  story_free(s);
}

static void test_parked_calls_that_are_cancelled_are_never_sent(void **state) {
  struct story *s = story_begun();
  char big[60000] = {0};
  far_run(s->far);
  s->sim->full = 1;
  call_with(s, big, sizeof big, 0);
  call_with(s, big, 10000, 0);
  for (int i = 0; i < 10; i++)
    call_with(s, big, sizeof big, i == 5 ? 10 : 0);
  mf_rpc_cancel(s->rpc, s->id[11]);
  s->sim->now_ms += 20;
  s->sim->full = 0;
  s->far->deaf = 1;
  sim_run(s->sim);
  s->far->deaf = 0;
  far_run(s->far);
  assert_int_equal(s->call[11].code, MF_ECANCELLED);
  assert_int_equal(s->call[11].started, MF_STARTED_NO);
  assert_int_equal(s->call[7].code, MF_ETIMEOUT);
  assert_int_equal(s->call[7].started, MF_STARTED_NO);
  assert_int_equal(far_worker(s->far, 0)->ncalls, 10);
  story_free(s);
}

/* ---- parts that are lent ---- */

static void count_release(void *data) {
  ++*(int *)data;
}

/* "ab" <50,000 bytes of it> "c" */
static int call_lending(struct story *s, const unsigned char *part, int *released,
                        unsigned timeout_ms) {
  enum { PART = 50000 };
  const struct lent lent[] = {{2, part, PART - 1}, {3, part + PART - 1, 1}};
  struct mf_loan loan = {lent, 2, count_release, released};
  mf_message m = {"abc", 3, NULL, 0};
  mf_call_options o = MF_CALL_OPTIONS_INIT;
  int r;
  o.timeout_ms = timeout_ms;
  s->in_call = 1;
  r = mf_rpc_call_lent(s->rpc, &m, &loan, &o, on_reply, &s->call[s->ncalls],
                       &s->id[s->ncalls]);
  s->in_call = 0;
  if (r == 0)
    s->ncalls++;
  return r;
}

static void test_lent_parts_are_given_back_once(void **state) {
  enum { PART = 50000 };
  enum { SENT, TIMED_OUT, CANCELLED, CLOSED, ABORTED, DIED, REFUSED, FATES };
  unsigned char *part = malloc(PART);
  memset(part, 'x', PART);
  for (int fate = 0; fate < FATES; fate++) {
    struct story *s = story_new();
    int released = 0;
    if (fate == REFUSED)
      s->options.message_max = PART + 2;
    begin(s);
    far_run(s->far);
    s->far->deaf = fate != SENT;
    int r = call_lending(s, part, &released, fate == TIMED_OUT ? 100 : 0);
    assert_int_equal(r, fate == REFUSED ? MF_ELIMIT : 0);
    far_run(s->far);
    if (fate == SENT) {
      struct far_node *w = far_worker(s->far, 0);
      assert_int_equal(released, 1);
      assert_int_equal(w->ncalls, 1);
      assert_memory_equal(&w->word[0], "ab", 2);
      far_result(s->far, w, 0, "1");
    }
    if (fate == TIMED_OUT)
      far_advance(s->far, 200);
    if (fate == CANCELLED)
      mf_rpc_cancel(s->rpc, s->id[0]);
    if (fate == CLOSED)
      mf_rpc_close(s->rpc, on_gone, s);
    if (fate == ABORTED)
      mf_rpc_abort(s->rpc);
    if (fate == DIED)
      far_die(s->far, far_worker(s->far, 0), SIGKILL);
    far_run(s->far);
    story_free(s);
    assert_int_equal(released, 1);
  }
  free(part);
}

static void test_an_old_call_keeps_its_number(void **state) {
  struct story *s = story_begun();
  call(s, "stays");
  far_run(s->far);
  for (int i = 0; i < 1000; i++) {
    call(s, "x");
    far_run(s->far);
    far_result(s->far, far_worker(s->far, 0), 1, "y");
  }
  far_run(s->far);
  assert_int_equal(s->ntold, 1000);
  assert_int_equal(s->call[0].told, 0);
  story_free(s);
}

/* Nobody will ever tell of its end, which was told when it ran: its socket's is the end. */
static void test_end_of_file_is_the_end_that_nobody_tells_of(void **state) {
  struct story *s = story_new();
  s->sim->share_error = s->sim->pidfd_error = -ENOSYS;
  begin(s);
  call(s, "x");
  far_run(s->far);
  far_result(s->far, far_worker(s->far, 0), 0, "X");
  far_advance(s->far, 1);
  mf_rpc_close(s->rpc, on_gone, s);
  far_run(s->far);
  assert_int_equal(s->gone, 1);
  story_free(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_calls_before_the_process_is_up_are_sent_later),
      cmocka_unit_test(test_orderly_end_comes_after_outstanding_calls),
      cmocka_unit_test(test_events_and_results_keep_their_order),
      cmocka_unit_test(test_answer_out_of_order),
      cmocka_unit_test(test_long_bodies_go_and_come_in_parts),
      cmocka_unit_test(test_long_bodies_are_the_callers_again),
      cmocka_unit_test(test_long_answers_in_pieces),
      cmocka_unit_test(test_full_queues_refuse_and_tell_when_they_have_room),
      cmocka_unit_test(test_bytes_have_a_limit_but_a_long_call_may_go_alone),
      cmocka_unit_test(test_long_calls_are_spread_over_turns),
      cmocka_unit_test(test_what_the_kernel_cannot_take_now_is_tried_again),
      cmocka_unit_test(test_late_answers_are_dropped_and_counted),
      cmocka_unit_test(test_parked_calls_that_are_cancelled_are_never_sent),
      cmocka_unit_test(test_lent_parts_are_given_back_once),
      cmocka_unit_test(test_an_old_call_keeps_its_number),
      cmocka_unit_test(test_end_of_file_is_the_end_that_nobody_tells_of),
  };
  return cmocka_run_group_tests_name("rpc", tests, NULL, NULL);
}
