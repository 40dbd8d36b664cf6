/* An rpc on a world without a kernel: every way in which a call can end, each callback
 * exactly once and later than its call, `started` only on proof, limits, ghosts, hostile
 * clones. */
#include "help/far.h"
#include "parent/common/fork_watch.h"
#include "parent/common/times.h"
#include "parent/process/registry.h"
#include "parent/rpc/rpc.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "unit.h"

#include <errno.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

enum { CALLS = 128 * 1024 };

static unsigned char whole_text[2 * FRAME_BODY_MAX]; /* of the answer to be kept */
static size_t whole_length;

struct outcome {
  int told, code, started;
  int keep, thrown; /* thrown: the error has the value that far_error sends */
  char text[32];
};

struct story {
  struct sim *sim;
  struct far *far;
  struct context *context;
  mf_process *t;
  mf_rpc *rpc;
  mf_rpc_options options;
  struct outcome *call;
  uint64_t *id;
  int ncalls, in_call, ntold;
  int errors, error_code, closes, drains, events, gone;
  char order[64], last_event[32], error_text[200];
  int most_a_turn, this_turn;
};

static void on_event(const mf_message *m, void *data) {
  struct story *s = data;
  s->events++;
  snprintf(s->last_event, sizeof s->last_event, "%.*s", (int)m->length,
           (const char *)m->data);
  if (strlen(s->order) < 60)
    strcat(s->order, "e");
}

static void on_error(const mf_error *e, void *data) {
  struct story *s = data;
  assert_false(s->in_call);
  s->errors++;
  s->error_code = e->code;
  snprintf(s->error_text, sizeof s->error_text, "%s", e->message);
}

static void on_close(void *data) {
  ((struct story *)data)->closes++;
}

static void on_drain(void *data) {
  ((struct story *)data)->drains++;
}

static struct story *now;

static void on_reply(const mf_error *e, const mf_message *m, void *data) {
  struct outcome *o = data;
  assert_false(now->in_call);
  assert_int_equal(o->told, 0);
  assert_true(!e != !m);
  o->told = 1;
  o->code = e ? e->code : 0;
  o->started = e ? e->started : -1;
  o->thrown = e && e->value_length == 2 && memcmp(e->value, "\x91\x2a", 2) == 0;
  snprintf(o->text, sizeof o->text, "%.*s", m ? (int)m->length : 20,
           m ? (const char *)m->data : e->message);
  if (m && o->keep) {
    whole_length = m->length;
    memcpy(whole_text, m->data, m->length);
  }
  if (strlen(now->order) < 60)
    strcat(now->order, e ? "x" : "r");
  now->ntold++;
  now->this_turn++;
}

static void begin(struct story *s) {
  mf_process *q;
  assert_int_equal(mf_fork(s->t, &q), 0);
  assert_int_equal(mf_rpc_new(q, "f", &s->options, &s->rpc), 0);
}

static struct story *story_new(void) {
  struct story *s = calloc(1, sizeof *s);
  s->sim = sim_new();
  s->far = far_new(s->sim);
  s->context = registry_new_on(&s->sim->backend);
  s->context->generation = fork_generation();
  s->call = calloc(CALLS, sizeof *s->call);
  s->id = calloc(CALLS, sizeof *s->id);
  context_start(s->context);
  assert_int_equal(boot_exec(s->context, NULL, &s->t), 0);
  far_run(s->far);
  assert_int_equal(s->t->state, SERVING);
  mf_rpc_options_init(&s->options);
  s->options.on_event = on_event;
  s->options.on_error = on_error;
  s->options.on_close = on_close;
  s->options.on_drain = on_drain;
  s->options.data = s;
  now = s;
  return s;
}

static int call_with(struct story *s, const void *data, size_t n, unsigned timeout_ms) {
  mf_message m = {data, n, NULL, 0};
  mf_call_options o = MF_CALL_OPTIONS_INIT;
  int r;
  o.timeout_ms = timeout_ms;
  s->in_call = 1;
  r = mf_rpc_call(s->rpc, &m, &o, on_reply, &s->call[s->ncalls], &s->id[s->ncalls]);
  s->in_call = 0;
  if (r == 0)
    s->ncalls++;
  return r;
}

static int call(struct story *s, const char *text) {
  return call_with(s, text, strlen(text), 0);
}

static void on_gone(mf_rpc *rpc, void *data) {
  struct story *s = data;
  assert_int_equal(s->ntold, s->ncalls);
  s->gone++;
}

/* Closes everything, and nothing is left: no callback, no descriptor, nothing busy. */
static void story_free(struct story *s) {
  if (!s->gone)
    mf_rpc_close(s->rpc, on_gone, s);
  s->far->deaf = 0;
  for (int i = 0; i < 20; i++) {
    while (far_worker(s->far, 0) && far_worker(s->far, 0)->ncalls)
      far_result(s->far, far_worker(s->far, 0), 0, "late");
    far_advance(s->far, 2000);
  }
  assert_int_equal(s->gone, 1);
  assert_int_equal(s->ntold, s->ncalls);
  for (int i = 0; i < s->ncalls; i++)
    assert_int_equal(s->call[i].told, 1);
  mf_close(s->t, NULL, NULL);
  far_advance(s->far, 5000);
  assert_int_equal(s->context->nopen, 0);
  assert_int_equal(s->context->nbusy, 0);
  assert_false(s->sim->started);
  default_close(s->context);
  far_free(s->far);
  assert_int_equal(sim_free(s->sim), 0);
  free(s->call);
  free(s->id);
  free(s);
}

/* ---- the plain way ---- */

static void test_calls_before_the_process_is_up_are_sent_later(void **state) {
  struct story *s = story_new();
  struct far_node *w;
  begin(s);
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
  struct story *s = story_new();
  begin(s);
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
  struct story *s = story_new();
  struct far_node *w;
  begin(s);
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
  struct story *s = story_new();
  size_t n = 3 * FRAME_BODY_MAX + 5, at = 0;
  char *big = calloc(1, n);
  unsigned char header[FRAME_HEADER_SIZE];
  struct far_node *w;
  begin(s);
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
  struct story *s = story_new();
  size_t n = FRAME_BODY_MAX + 30000, at = 0;
  unsigned char *bytes = calloc(1, n + 200), *end = bytes;
  struct far_node *w;
  begin(s);
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

/* ---- deaths ---- */

static void test_replies_come_before_the_death(void **state) {
  struct story *s = story_new();
  struct far_node *w;
  begin(s);
  call(s, "a");
  call(s, "b");
  far_run(s->far);
  w = far_worker(s->far, 0);
  far_result(s->far, w, 0, "A");
  far_die(s->far, w, SIGKILL);
  far_run(s->far);
  assert_string_equal(s->order, "rx");
  assert_int_equal(s->call[1].code, MF_ECLONE_DIED);
  assert_int_equal(s->call[1].started, MF_STARTED_UNKNOWN);
  assert_int_equal(s->errors, 1);
  assert_non_null(strstr(s->error_text, "signal 9"));
  assert_int_equal(call(s, "later"), 0);
  far_run(s->far);
  assert_int_equal(s->call[2].code, MF_ECLONE_DIED);
  assert_int_equal(s->call[2].started, MF_STARTED_NO);
  assert_int_equal(s->closes, 0);
  story_free(s);
}

static void test_idle_death_is_an_error_with_the_status(void **state) {
  struct story *s = story_new();
  begin(s);
  far_run(s->far);
  far_die(s->far, far_worker(s->far, 0), 3 << 8);
  far_run(s->far);
  assert_int_equal(s->errors, 1);
  assert_int_equal(s->error_code, MF_ECLONE_DIED);
  assert_non_null(strstr(s->error_text, "exit status 3"));
  story_free(s);
}

static void test_strict_clone_has_entered_only_the_first(void **state) {
  struct story *s = story_new();
  s->options.strict = 1;
  begin(s);
  for (int i = 0; i < 4; i++)
    call(s, "x");
  far_run(s->far);
  far_result(s->far, far_worker(s->far, 0), 0, "1");
  far_die(s->far, far_worker(s->far, 0), SIGSEGV);
  far_run(s->far);
  assert_int_equal(s->call[0].code, 0);
  assert_int_equal(s->call[1].started, MF_STARTED_UNKNOWN);
  assert_int_equal(s->call[2].started, MF_STARTED_NO);
  assert_int_equal(s->call[3].started, MF_STARTED_NO);
  story_free(s);
}

static void test_what_was_never_ready_started_nothing(void **state) {
  struct story *s = story_new();
  s->far->slow_hello = 1;
  begin(s);
  call(s, "x");
  far_run(s->far);
  assert_int_equal(far_worker(s->far, 0)->ncalls, 1);
  far_die(s->far, far_worker(s->far, 0), SIGKILL);
  far_run(s->far);
  assert_int_equal(s->call[0].started, MF_STARTED_NO);
  story_free(s);
}

static void test_init_that_fails_is_told_to_every_call(void **state) {
  struct story *s = story_new();
  s->far->slow_hello = 1;
  begin(s);
  call(s, "x");
  far_run(s->far);
  far_fail(s->far, far_worker(s->far, 0));
  far_run(s->far);
  assert_int_equal(s->call[0].code, MF_EREMOTE);
  assert_string_equal(s->call[0].text, "no luck");
  assert_int_equal(s->call[0].started, MF_STARTED_NO);
  assert_int_equal(s->errors, 1);
  story_free(s);
}

static void test_process_that_cannot_be_forked_fails_the_calls(void **state) {
  struct story *s = story_new();
  s->far->fork_failures = 1;
  begin(s);
  call(s, "x");
  far_run(s->far);
  assert_int_equal(s->call[0].code, MF_EFORK_FAILED);
  assert_int_equal(s->call[0].started, MF_STARTED_NO);
  assert_int_equal(s->errors, 1);
  story_free(s);
}

/* Half-close: its end of file alone is its end, and then it is not left alive. */
static void test_closed_socket_of_a_living_process(void **state) {
  struct story *s = story_new();
  struct far_node *w;
  begin(s);
  call(s, "x");
  far_run(s->far);
  w = far_worker(s->far, 0);
  sim_hang_up(s->sim, w->fd);
  w->fd = -1;
  far_run(s->far);
  assert_int_equal(s->ntold, 0);
  far_advance(s->far, 1000);
  assert_int_equal(w->kind, FAR_DEAD);
  assert_int_equal(s->call[0].code, MF_ECLONE_DIED);
  story_free(s);
}

/* A grandchild holds the socket: the exit is enough. */
static void test_exit_without_end_of_file(void **state) {
  struct story *s = story_new();
  struct far_node *w;
  int fd;
  begin(s);
  call(s, "x");
  call(s, "y");
  far_run(s->far);
  w = far_worker(s->far, 0);
  far_result(s->far, w, 0, "last words");
  fd = w->fd;
  w->fd = -1;
  far_die(s->far, w, 0);
  far_run(s->far);
  assert_string_equal(s->order, "rx");
  assert_int_equal(s->errors, 1);
  sim_hang_up(s->sim, fd);
  story_free(s);
}

static void on_turn_end(struct story *s) {
  if (s->this_turn > s->most_a_turn)
    s->most_a_turn = s->this_turn;
  s->this_turn = 0;
}

static void test_a_hundred_thousand_calls_fail_in_chunks(void **state) {
  struct story *s = story_new();
  s->options.queue_bytes_max = 16 << 20;
  begin(s);
  far_run(s->far);
  s->far->deaf = 1;
  for (int i = 0; i < 100000; i++)
    assert_int_equal(call(s, "eight..."), 0);
  far_run(s->far);
  far_die(s->far, far_worker(s->far, 0), SIGKILL);
  s->this_turn = 0;
  while (sim_step(s->sim))
    on_turn_end(s);
  assert_int_equal(s->ntold, 100000);
  assert_true(s->most_a_turn <= 1024);
  assert_int_equal(s->errors, 1);
  story_free(s);
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
  struct story *s = story_new();
  mf_rpc_stats stats = {.size = sizeof stats};
  struct far_node *w;
  begin(s);
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
  struct story *s = story_new();
  char big[60000] = {0};
  begin(s);
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
  struct story *s = story_new();
  begin(s);
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

/* ---- giving up ---- */

/* Numbers share places: an old one must not find the call that has its place now. */
static void test_an_old_number_finds_no_newer_call(void **state) {
  struct story *s = story_new();
  struct far_node *w;
  begin(s);
  far_run(s->far);
  w = far_worker(s->far, 0);
  assert_int_equal(call(s, "first"), 0);
  far_run(s->far);
  far_result(s->far, w, 0, "first");
  far_run(s->far);
  for (int i = 0; i < 300;
       i++) { /* each place of a small table has a new call at times */
    assert_int_equal(call(s, "more"), 0);
    far_run(s->far);
    assert_int_equal(mf_rpc_cancel(s->rpc, s->id[0]), -ESRCH);
    far_run(s->far);
    assert_int_equal(s->call[i + 1].told, 0);
    far_result(s->far, w, 0, "answer");
    far_run(s->far);
    assert_string_equal(s->call[i + 1].text, "answer");
  }
  assert_int_equal(call(s, "last"), 0);
  far_run(s->far);
  for (int i = 0; i < 300; i++) /* answered already: that is no answer to anything */
    far_say(s->far, w, RPC_RESULT, s->id[i], "stale", 5);
  far_run(s->far);
  assert_int_equal(s->call[s->ncalls - 1].code, MF_EPROTOCOL);
  story_free(s);
}

static void test_abort_cancels_everything_in_silence(void **state) {
  struct story *s = story_new();
  begin(s);
  call(s, "a");
  far_run(s->far);
  call(s, "b");
  mf_rpc_abort(s->rpc);
  assert_int_equal(s->ntold, 0);
  far_run(s->far);
  assert_int_equal(s->call[0].code, MF_ECANCELLED);
  assert_int_equal(s->call[0].started, MF_STARTED_UNKNOWN);
  assert_int_equal(s->call[1].started, MF_STARTED_NO);
  assert_int_equal(s->errors + s->closes, 0);
  story_free(s);
}

static void test_close_before_the_process_is_up(void **state) {
  struct story *s = story_new();
  begin(s);
  call(s, "a");
  mf_rpc_close(s->rpc, on_gone, s);
  far_run(s->far);
  far_result(s->far, far_worker(s->far, 0), 0, "A");
  far_run(s->far);
  assert_string_equal(s->call[0].text, "A");
  assert_int_equal(s->closes, 1);
  story_free(s);
}

/* A call that is never answered does not hold up the close for ever. */
static void test_close_ends_when_nothing_comes(void **state) {
  struct story *s = story_new();
  begin(s);
  call(s, "a");
  call(s, "b");
  far_run(s->far);
  mf_rpc_close(s->rpc, on_gone, s);
  far_advance(s->far, CALLS_GRACE_MS - 1);
  far_result(s->far, far_worker(s->far, 0), 0, "A"); /* begins it anew */
  far_advance(s->far, CALLS_GRACE_MS - 1);
  assert_int_equal(s->ntold, 1);
  assert_int_equal(s->gone, 0);
  far_advance(s->far, 1);
  assert_int_equal(s->ntold, 2);
  assert_int_equal(s->call[1].code, MF_ECANCELLED);
  assert_int_equal(s->call[1].started, MF_STARTED_UNKNOWN);
  assert_int_equal(far_nworkers(s->far), 0);
  assert_int_equal(s->errors, 1);
  assert_int_equal(s->closes, 0);
  assert_int_equal(s->gone, 1);
  story_free(s);
}

/* One that was given up and stays in its function is killed before it is forgotten. */
static void test_abort_ends_a_clone_that_does_not_leave(void **state) {
  struct story *s = story_new();
  begin(s);
  call(s, "a");
  far_run(s->far);
  s->far->deaf = 1;
  mf_rpc_abort(s->rpc);
  mf_rpc_close(s->rpc, on_gone, s);
  far_advance(s->far, EXIT_TIMEOUT_MS - 1);
  assert_int_equal(far_nworkers(s->far), 1);
  assert_int_equal(s->gone, 0);
  far_advance(s->far, 1);
  assert_int_equal(far_nworkers(s->far), 0);
  assert_int_equal(s->gone, 1);
  story_free(s);
}

/* ---- hostile clones ---- */

static void expect_protocol(struct story *s) {
  far_run(s->far);
  assert_int_equal(s->errors, 1);
  assert_int_equal(s->error_code, MF_EPROTOCOL);
  assert_int_equal(far_nworkers(s->far), 0);
  story_free(s);
}

static void test_violations(void **state) {
  static const struct {
    unsigned type;
    uint64_t id;
    const char *body;
    size_t length;
    int early; /* before HELLO */
  } bad[] = {
      {RPC_RESULT, 99, "", 0, 0},    /* of no call */
      {RPC_RESULT, 0, "", 0, 0},     /* without number */
      {RPC_ERROR, 1, "short", 5, 0}, /* none */
      {RPC_ERROR, 99, "", 0, 0},
      {RPC_HELLO, 0, "", 0, 0},  /* again */
      {RPC_HELLO, 0, "x", 1, 1}, /* none */
      {RPC_READY, 0, "", 0, 0},  /* again */
      {RPC_READY, 0, "", 0, 1},
      {RPC_RESULT, 1, "", 0, 1},
      {RPC_EVENT, 0, "", 0, 1},
      {RPC_EVENT, 7, "", 0, 0},
      {RPC_FAILED, 0, "", 0, 0},
      {RPC_USAGE, 0, "abc", 3, 0},
      {RPC_BYE, 0, "", 0, 0}, /* nobody asked */
      {RPC_HANDLES, 0, "", 0, 0},
      {RPC_CALL, 1, "", 0, 0}, /* the parent's */
      {ANS_HELLO, 0, "", 0, 0},
      {0, 0, "", 0, 0},
      {255, 0, "", 0, 0},
  };
  for (size_t i = 0; i < COUNT(bad); i++) {
    struct story *s = story_new();
    s->far->slow_hello = bad[i].early;
    begin(s);
    call(s, "x");
    far_run(s->far);
    far_say(s->far, far_worker(s->far, 0), bad[i].type, bad[i].id, bad[i].body,
            bad[i].length);
    expect_protocol(s);
  }
}

static void test_wrong_version_is_named(void **state) {
  struct story *s = story_new();
  unsigned char hello[16] = {'M', 'F', 'R', '1', 9};
  s->far->slow_hello = 1;
  begin(s);
  call(s, "x");
  far_run(s->far);
  far_say(s->far, far_worker(s->far, 0), RPC_HELLO, 0, hello, sizeof hello);
  far_run(s->far);
  assert_non_null(strstr(s->error_text, "version 9"));
  assert_int_equal(s->call[0].started, MF_STARTED_NO);
  expect_protocol(s);
}

static void test_double_answer(void **state) {
  struct story *s = story_new();
  struct far_node *w;
  uint64_t id;
  begin(s);
  call(s, "x");
  far_run(s->far);
  w = far_worker(s->far, 0);
  id = w->call[0];
  far_result(s->far, w, 0, "1");
  far_say(s->far, w, RPC_RESULT, id, "2", 1);
  far_run(s->far);
  assert_string_equal(s->call[0].text, "1");
  expect_protocol(s);
}

static void test_lengths_that_lie(void **state) {
  static const uint32_t lengths[] = {FRAME_BODY_MAX + 1, 0x7fffffff, 0xffffffff};
  for (size_t i = 0; i < COUNT(lengths); i++) {
    struct story *s = story_new();
    unsigned char header[FRAME_HEADER_SIZE] = {0};
    begin(s);
    far_run(s->far);
    for (int k = 0; k < 4; k++)
      header[k] = (unsigned char)(lengths[i] >> (8 * k));
    header[4] = RPC_EVENT;
    sim_bytes(s->sim, far_worker(s->far, 0)->fd, header, sizeof header);
    expect_protocol(s);
  }
}

static void test_message_longer_than_allowed(void **state) {
  struct story *s = story_new();
  unsigned char header[FRAME_HEADER_SIZE], body[1000] = {0};
  struct frame f = {.type = RPC_EVENT, .length = sizeof body, .flags = FRAME_MORE};
  s->options.message_max = 2500;
  begin(s);
  far_run(s->far);
  frame_encode(header, &f);
  for (int i = 0; i < 3; i++) {
    sim_bytes(s->sim, far_worker(s->far, 0)->fd, header, sizeof header);
    sim_bytes(s->sim, far_worker(s->far, 0)->fd, body, sizeof body);
  }
  expect_protocol(s);
}

/* A frame that says nfds, with so many descriptors in fact. Gives the far ends of those.
 */
static void say_with_fds(struct story *s, unsigned type, unsigned nfds, int nreal,
                         int *ret_far) {
  struct far_node *w = far_worker(s->far, 0);
  struct sim_fd *near = &s->sim->fd[s->sim->fd[w->fd].peer];
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame f = {.type = (uint8_t)type, .nfds = (uint8_t)nfds};
  for (int i = 0; i < nreal; i++) {
    int pair[2];
    assert_int_equal(s->sim->backend.ops->pair(&s->sim->backend, pair), 0);
    near->fds[near->nfds++] = pair[0] - SIM_FD_BASE;
    ret_far[i] = pair[1] - SIM_FD_BASE;
  }
  frame_encode(header, &f);
  sim_bytes(s->sim, w->fd, header, sizeof header);
}

static int is_hung_up(struct story *s, int far) {
  return s->sim->fd[s->sim->fd[far].peer].closed;
}

static int kept_fd;

static void on_event_with_fds(const mf_message *m, void *data) {
  struct story *s = data;
  s->events++;
  assert_int_equal(m->nfds, 3);
  kept_fd = m->fds[1];
  m->fds[1] = -1;
}

static void test_handles_of_a_message_are_kept_or_closed(void **state) {
  struct story *s = story_new();
  int far[3];
  s->options.handles = 1;
  s->options.on_event = on_event_with_fds;
  begin(s);
  far_run(s->far);
  say_with_fds(s, RPC_HANDLES, 2, 2, far);
  say_with_fds(s, RPC_EVENT, 1, 1, far + 2);
  far_run(s->far);
  assert_int_equal(s->events, 1);
  assert_true(is_hung_up(s, far[0]));
  assert_false(is_hung_up(s, far[1]));
  assert_true(is_hung_up(s, far[2]));
  s->sim->backend.ops->close(&s->sim->backend, &kept_fd);
  story_free(s);
}

static void test_handles_that_do_not_belong(void **state) {
  static const struct {
    int accepted;
    unsigned type, nfds;
    int nreal;
  } rows[] = {
      {1, RPC_EVENT, 0, 1}, /* unannounced */
      {1, RPC_EVENT, 1, 2}, /* more than announced */
      {1, RPC_EVENT, 2, 1}, /* fewer */
      {1, RPC_EVENT, 1, 0},  {0, RPC_EVENT, 1, 0},   {1, RPC_READY, 1, 1},
      {1, RPC_RETIRE, 1, 1}, {1, RPC_HANDLES, 0, 0},
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    struct story *s = story_new();
    int far[3];
    s->options.handles = rows[i].accepted;
    begin(s);
    far_run(s->far);
    say_with_fds(s, rows[i].type, rows[i].nfds, rows[i].nreal, far);
    far_run(s->far);
    for (int k = 0; k < rows[i].nreal; k++)
      assert_true(is_hung_up(s, far[k]));
    expect_protocol(s);
  }
}

static void test_torn_long_body_and_death(void **state) {
  static const size_t cuts[] = {1, 3000, 40000, FRAME_BODY_MAX - 1, FRAME_BODY_MAX};
  unsigned char *bytes = calloc(1, FRAME_HEADER_SIZE + FRAME_BODY_MAX);
  for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
    struct story *s = story_new();
    struct frame f = {.type = RPC_RESULT, .length = FRAME_BODY_MAX, .flags = FRAME_MORE};
    begin(s);
    call(s, "x");
    far_run(s->far);
    f.id = far_worker(s->far, 0)->call[0];
    frame_encode(bytes, &f);
    sim_bytes(s->sim, far_worker(s->far, 0)->fd, bytes, FRAME_HEADER_SIZE + cuts[i]);
    far_run(s->far);
    far_die(s->far, far_worker(s->far, 0), SIGKILL);
    far_run(s->far);
    assert_int_equal(s->call[0].code, MF_ECLONE_DIED);
    assert_non_null(strstr(s->error_text, "in the middle"));
    story_free(s);
  }
  free(bytes);
}

static void test_torn_header_and_death(void **state) {
  for (size_t cut = 1; cut < FRAME_HEADER_SIZE; cut++) {
    struct story *s = story_new();
    unsigned char header[FRAME_HEADER_SIZE];
    struct frame f = {.type = RPC_EVENT};
    begin(s);
    call(s, "x");
    far_run(s->far);
    frame_encode(header, &f);
    sim_bytes(s->sim, far_worker(s->far, 0)->fd, header, cut);
    far_run(s->far);
    far_die(s->far, far_worker(s->far, 0), SIGKILL);
    far_run(s->far);
    assert_int_equal(s->call[0].code, MF_ECLONE_DIED);
    assert_non_null(strstr(s->error_text, "in the middle"));
    story_free(s);
  }
}

static void test_events_without_end_leave_the_loop_its_turns(void **state) {
  struct story *s = story_new();
  struct far_node *w;
  int most = 0;
  begin(s);
  far_run(s->far);
  w = far_worker(s->far, 0);
  for (int i = 0; i < 20000; i++)
    far_say(s->far, w, RPC_EVENT, 0, NULL, 0);
  for (s->events = 0; sim_step(s->sim); s->events = 0)
    most = s->events > most ? s->events : most;
  assert_true(most <= 2 * 1024);
  s->order[0] = 0;
  story_free(s);
}

/* ---- last words ---- */

static size_t bytes_in_use(void) {
#ifdef __GLIBC__
  return mallinfo2().uordblks;
#else
  return 0; /* a checker of leaks tells, too */
#endif
}

/* Its end was told with the failed run, and once more by itself, and the first copy of
 * its last words was forgotten. */
static void test_last_words_before_run_are_kept_once(void **state) {
  enum { ROUNDS = 50, WORDS = 8000, SOME = 10 };
  static char words[WORDS];
  size_t before = 0;
  memset(words, 'x', sizeof words - 1);
  for (int i = 0; i < ROUNDS; i++) {
    struct story *s = story_new();
    struct frame f;
    int fds[SIM_QUEUE], template;
    begin(s);
    s->far->deaf = 1;
    call(s, "one");
    mf_process *p = mf_rpc_process(s->rpc);
    process_unhold(p);
    template = s->far->node[0]->fd;
    while (sim_command(s->sim, template, &f, fds))
      if (f.type == CMD_FORK) {
        sim_fork(s->sim, template, &f, fds, 600);
        sim_last_words(s->sim, template, &f, words);
        sim_hang_up(s->sim, fds[0]);
      }
    sim_end_process(s->sim, 600, 1 << 8);
    sim_run(s->sim);
    assert_int_equal(s->errors, 1);
    assert_int_equal(s->call[0].told, 1);
    story_free(s);
    if (i == SOME)
      before = bytes_in_use();
  }
  assert_true(bytes_in_use() < before + (ROUNDS - SOME) * WORDS / 2);
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
      cmocka_unit_test(test_replies_come_before_the_death),
      cmocka_unit_test(test_idle_death_is_an_error_with_the_status),
      cmocka_unit_test(test_strict_clone_has_entered_only_the_first),
      cmocka_unit_test(test_what_was_never_ready_started_nothing),
      cmocka_unit_test(test_init_that_fails_is_told_to_every_call),
      cmocka_unit_test(test_process_that_cannot_be_forked_fails_the_calls),
      cmocka_unit_test(test_closed_socket_of_a_living_process),
      cmocka_unit_test(test_exit_without_end_of_file),
      cmocka_unit_test(test_a_hundred_thousand_calls_fail_in_chunks),
      cmocka_unit_test(test_full_queues_refuse_and_tell_when_they_have_room),
      cmocka_unit_test(test_bytes_have_a_limit_but_a_long_call_may_go_alone),
      cmocka_unit_test(test_long_calls_are_spread_over_turns),
      cmocka_unit_test(test_what_the_kernel_cannot_take_now_is_tried_again),
      cmocka_unit_test(test_late_answers_are_dropped_and_counted),
      cmocka_unit_test(test_parked_calls_that_are_cancelled_are_never_sent),
      cmocka_unit_test(test_lent_parts_are_given_back_once),
      cmocka_unit_test(test_an_old_call_keeps_its_number),
      cmocka_unit_test(test_an_old_number_finds_no_newer_call),
      cmocka_unit_test(test_abort_cancels_everything_in_silence),
      cmocka_unit_test(test_close_before_the_process_is_up),
      cmocka_unit_test(test_close_ends_when_nothing_comes),
      cmocka_unit_test(test_abort_ends_a_clone_that_does_not_leave),
      cmocka_unit_test(test_violations),
      cmocka_unit_test(test_wrong_version_is_named),
      cmocka_unit_test(test_double_answer),
      cmocka_unit_test(test_lengths_that_lie),
      cmocka_unit_test(test_message_longer_than_allowed),
      cmocka_unit_test(test_handles_of_a_message_are_kept_or_closed),
      cmocka_unit_test(test_handles_that_do_not_belong),
      cmocka_unit_test(test_torn_long_body_and_death),
      cmocka_unit_test(test_torn_header_and_death),
      cmocka_unit_test(test_events_without_end_leave_the_loop_its_turns),
      cmocka_unit_test(test_last_words_before_run_are_kept_once),
  };
  return cmocka_run_group_tests_name("rpc", tests, NULL, NULL);
}
