/* Callers and nodes, the parts without a connection: messages between them, of friends
 * and of strangers, the room of nodes, subjects, durations. */
#include "unit.h"

#include "nats/call_times.h"
#include "nats/envelope.h"
#include "nats/room.h"
#include <moonfork/nats.h>
#include <stdlib.h>
#include <string.h>

#define ID "ABCDEFGHIJKLMNOPQRSTUV"

static const char OTHER[] = "abcdefghijklmnopqrstuv";

static struct node_beat a_beat(const char *id, unsigned window, unsigned held,
                               unsigned workers) {
  struct node_beat b = {.window = window,
                        .held = held,
                        .workers = workers,
                        .load = 2,
                        .beat_ms = 300,
                        .calls = 77};
  snprintf(b.node, sizeof b.node, "%s", id);
  snprintf(b.name, sizeof b.name, "name of %c", id[0]);
  return b;
}

static void test_calls_there_and_back(void **state) {
  struct buf b;
  struct reader r;
  struct envelope_record e;
  buf_init(&b, SIZE_MAX);
  assert_int_equal(envelope_begin_calls(&b), 0);
  size_t head = buf_size(&b);
  assert_int_equal(envelope_put_call(&b, 1, 5000, 1, "abc", 3), 0);
  assert_int_equal(buf_size(&b), envelope_call_size(3));
  assert_int_equal(envelope_put_cancel(&b, UINT64_MAX), 0);
  assert_int_equal(envelope_put_call(&b, 2, 0, 0, NULL, 0), 0);
  assert_int_equal(envelope_put_chunk(&b, 3, 70, "items", 5), 0);
  assert_true(head > 0);
  assert_int_equal(envelope_open_calls(&r, buf_peek(&b), buf_size(&b)), 1);
  assert_int_equal(envelope_next(&r, 0, &e), 1);
  assert_int_equal(e.kind, ENVELOPE_CALL);
  assert_true(e.id == 1 && e.timeout_ms == 5000 && e.idempotent == 1 && e.length == 3);
  assert_memory_equal(e.data, "abc", 3);
  assert_int_equal(envelope_next(&r, 0, &e), 1);
  assert_true(e.kind == ENVELOPE_CANCEL && e.id == UINT64_MAX);
  assert_int_equal(envelope_next(&r, 0, &e), 1);
  assert_true(e.id == 2 && e.timeout_ms == 0 && e.idempotent == 0 && e.length == 0);
  assert_non_null(e.data);
  assert_int_equal(envelope_next(&r, 0, &e), 1);
  assert_true(e.kind == ENVELOPE_CHUNK && e.id == 3 && e.timeout_ms == 70 &&
              e.length == 5);
  assert_int_equal(envelope_next(&r, 0, &e), 0);
  buf_deinit(&b);
}

static void put_all_answers(struct buf *b) {
  struct envelope_record e = {.id = 9,
                              .code = -20001,
                              .started = 1,
                              .exit = ENVELOPE_EXIT_SIGNAL,
                              .status = 9,
                              .message = "message",
                              .message_length = 7,
                              .traceback = "trace",
                              .traceback_length = 5,
                              .value = "\x91\xc0",
                              .value_length = 2};
  struct envelope_record end = {.id = 11, .entered = 5, .us = 12};
  assert_int_equal(envelope_begin_answers(b, ID), 0);
  assert_int_equal(envelope_put_result(b, 7, "xy", 2), 0);
  assert_int_equal(envelope_put_busy(b, 8), 0);
  assert_int_equal(envelope_put_error(b, &e, 1000), 0);
  assert_int_equal(envelope_put_items(b, 11, 70, "items", 5), 0);
  assert_int_equal(envelope_put_chunked(b, &end, 1000), 0);
  e.id = 12;
  e.entered = UINT32_MAX;
  assert_int_equal(envelope_put_chunked(b, &e, 1000), 0);
}

static void test_answers_there_and_back(void **state) {
  struct buf b;
  struct reader r;
  struct envelope_record e;
  char node[NODE_ID + 1];
  buf_init(&b, SIZE_MAX);
  put_all_answers(&b);
  assert_int_equal(envelope_open_answers(&r, buf_peek(&b), buf_size(&b), node), 1);
  assert_string_equal(node, ID);
  assert_int_equal(envelope_next(&r, 1, &e), 1);
  assert_true(e.kind == ENVELOPE_RESULT && e.id == 7 && e.length == 2);
  assert_int_equal(envelope_next(&r, 1, &e), 1);
  assert_true(e.kind == ENVELOPE_BUSY && e.id == 8);
  assert_int_equal(envelope_next(&r, 1, &e), 1);
  assert_true(e.kind == ENVELOPE_ERROR && e.id == 9 && e.code == -20001 &&
              e.started == 1);
  assert_true(e.exit == ENVELOPE_EXIT_SIGNAL && e.status == 9);
  assert_true(e.message_length == 7 && e.traceback_length == 5 && e.value_length == 2);
  assert_int_equal(envelope_next(&r, 1, &e), 1);
  assert_true(e.kind == ENVELOPE_ITEMS && e.id == 11 && e.before == 70 && e.length == 5);
  assert_int_equal(envelope_next(&r, 1, &e), 1);
  assert_true(e.kind == ENVELOPE_CHUNKED && e.id == 11 && e.entered == 5 && e.us == 12);
  assert_true(e.code == 0 && !e.message);
  assert_int_equal(envelope_next(&r, 1, &e), 1);
  assert_true(e.kind == ENVELOPE_CHUNKED && e.id == 12 && e.entered == UINT32_MAX);
  assert_true(e.code == -20001 && e.started == 1 && e.value_length == 2);
  assert_int_equal(envelope_next(&r, 1, &e), 0);
  buf_deinit(&b);
}

/* No process ends by signal 0 or -3, or with code 256. */
static void test_an_end_that_no_process_has_is_none(void **state) {
  static const struct {
    enum envelope_exit exit;
    int32_t status;
    int is_one;
  } cases[] = {
      {ENVELOPE_EXIT_CODE, 0, 1},     {ENVELOPE_EXIT_CODE, 255, 1},
      {ENVELOPE_EXIT_CODE, 256, 0},   {ENVELOPE_EXIT_CODE, -1, 0},
      {ENVELOPE_EXIT_SIGNAL, 64, 1},  {ENVELOPE_EXIT_SIGNAL, 0, 0},
      {ENVELOPE_EXIT_SIGNAL, -3, 0},  {ENVELOPE_EXIT_SIGNAL, 128, 0},
      {ENVELOPE_EXIT_CORE, 11, 1},    {ENVELOPE_EXIT_CORE, INT32_MIN, 0},
      {ENVELOPE_EXIT_CORE + 1, 1, 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct envelope_record e = {
        .id = 1, .code = -1, .exit = cases[i].exit, .status = cases[i].status};
    struct envelope_record got;
    struct reader r;
    struct buf b;
    char node[NODE_ID + 1];
    buf_init(&b, SIZE_MAX);
    assert_int_equal(envelope_begin_answers(&b, ID), 0);
    assert_int_equal(envelope_put_error(&b, &e, 100), 0);
    assert_int_equal(envelope_open_answers(&r, buf_peek(&b), buf_size(&b), node), 1);
    assert_int_equal(envelope_next(&r, 1, &got), 1);
    assert_int_equal(got.exit, cases[i].is_one ? cases[i].exit : ENVELOPE_NO_EXIT);
    buf_deinit(&b);
  }
}

static void test_an_error_is_cut_to_its_room(void **state) {
  char text[500];
  struct envelope_record e = {.id = 1,
                              .code = -1,
                              .message = text,
                              .message_length = 500,
                              .value = text,
                              .value_length = 100};
  struct envelope_record got;
  struct reader r;
  struct buf b;
  char node[NODE_ID + 1];
  memset(text, 'x', sizeof text);
  for (size_t room = 0; room < 800; room += 37) {
    buf_init(&b, SIZE_MAX);
    assert_int_equal(envelope_begin_answers(&b, ID), 0);
    size_t before = buf_size(&b);
    assert_int_equal(envelope_put_error(&b, &e, room), 0);
    assert_true(buf_size(&b) - before <= (room > 31 ? room : 31));
    assert_int_equal(envelope_open_answers(&r, buf_peek(&b), buf_size(&b), node), 1);
    assert_int_equal(envelope_next(&r, 1, &got), 1);
    assert_true(!got.value || got.value_length == 100); /* half a value is none */
    buf_deinit(&b);
  }
}

/* Every beginning of a message is the end of it, or none of ours: nothing is read behind
 * it (the block has just that size, for sanitizers). */
static void test_every_cut_is_noticed(void **state) {
  struct buf b;
  char node[NODE_ID + 1];
  buf_init(&b, SIZE_MAX);
  put_all_answers(&b);
  for (size_t n = 0; n < buf_size(&b); n++) {
    struct reader r;
    struct envelope_record e;
    unsigned char *cut = malloc(n ? n : 1);
    int rc = 1, records = 0;
    memcpy(cut, buf_peek(&b), n);
    if (envelope_open_answers(&r, cut, n, node)) {
      while ((rc = envelope_next(&r, 1, &e)) > 0)
        records++;
      assert_true(records < 6);
    }
    free(cut);
  }
  buf_deinit(&b);
}

static void test_the_other_side_is_not_believed(void **state) {
  static const struct {
    const char *bytes;
    size_t n;
  } bad[] = {
      {"mfc\3", 4}, /* another version */
      {"mfx\1", 4},
      {"mfc\2\3\1\0\0\0\0\0\0\0\0\0\0\0", 17}, /* an answer among calls */
      {"mfc\2\2\0\0\0\0\0\0\0\0", 13},         /* number 0 */
      {"mfc\2\143\1\0\0\0\0\0\0\0", 13},       /* a kind that is none */
      {"mfc\2\1\1\0\0\0\0\0\0\0\0\0\0\0\0\377\377\377\177x", 23}, /* a length that lies */
      {"mfc\2\1\1\0\0\0\0\0\0\0\0\0\0\0\0\377\377\377\377", 22},  /* no bytes at all */
      {"mfc\2\12\1\0\0\0\0\0\0\0\0\0\0\0", 17}, /* the end of a chunk among calls */
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct reader r;
    struct envelope_record e;
    int rc =
        envelope_open_calls(&r, bad[i].bytes, bad[i].n) ? envelope_next(&r, 0, &e) : -1;
    assert_int_equal(rc, -1);
  }
}

/* Who gets a message of another version can say which, and whose: as far as all versions
 * are the same. */
static void test_other_versions_are_told(void **state) {
  static const char beat_of_7[] = "mfb\7\26\0\0\0" ID "\2\0\0\0a\33what is later",
                    answers[] = "mfa\0\26\0\0\0" ID "any";
  size_t least = 4 + 4 + NODE_ID + 4 + 2;
  struct node_beat got;
  char text[VERSION_TEXT];
  for (size_t n = 0; n < sizeof beat_of_7; n++) {
    char *cut = malloc(n ? n : 1);
    memcpy(cut, beat_of_7, n);
    assert_int_equal(envelope_other_version(cut, n, 'b', &got), n < least ? -1 : 7);
    assert_int_equal(envelope_other_version(cut, n, 'a', &got), -1);
    free(cut);
  }
  assert_int_equal(envelope_other_version(beat_of_7, sizeof beat_of_7, 'b', &got), 7);
  assert_string_equal(got.node, ID);
  assert_string_equal(got.name, "a?");
  envelope_describe_version(7, &got, text);
  assert_non_null(strstr(text, "a? speaks version 7 of the messages, this program"));
  assert_int_equal(envelope_other_version(answers, 4 + 4 + NODE_ID, 'a', &got), 0);
  assert_string_equal(got.node, ID);
  envelope_describe_version(0, &got, text);
  assert_non_null(strstr(text, ID));
  assert_int_equal(envelope_other_version("mfc\3", 4, 'c', &got), 3);
  assert_int_equal(envelope_other_version("mfc", 3, 'c', &got), -1);
  assert_int_equal(envelope_other_version("mfc\2", 4, 'c', &got), -1); /* ours */
}

static void test_beats(void **state) {
  struct node_beat b = a_beat(ID, 20, 3, 2), got;
  struct buf out;
  buf_init(&out, SIZE_MAX);
  b.draining = 1;
  snprintf(b.name, sizeof b.name,
           "a\033[1mb\303\274\303 \302\205\342\200\256\360\237\214\221");
  assert_int_equal(beat_write(&out, &b), 0);
  for (size_t n = 0; n < buf_size(&out); n++)
    assert_int_equal(beat_read(&got, buf_peek(&out), n), 0);
  assert_int_equal(beat_read(&got, buf_peek(&out), buf_size(&out)), 1);
  assert_string_equal(got.node, ID);
  assert_string_equal(got.name, "a?[1mb\303\274? ?????\360\237\214\221");
  assert_true(got.window == 20 && got.held == 3 && got.workers == 2 &&
              got.draining == 1 && got.failed == 0 && got.calls == 77);
  assert_int_equal(got.chunks, 0);
  buf_consume(&out, buf_size(&out));
  b.draining = 0;
  b.chunks = 1;
  assert_int_equal(beat_write(&out, &b), 0);
  assert_int_equal(beat_read(&got, buf_peek(&out), buf_size(&out)), 1);
  assert_true(got.chunks == 1 && got.draining == 0);
  buf_deinit(&out);
}

static void test_subjects(void **state) {
  static const char *const good[] = {"a", "a.b", "a-b_c.D9", "a.b$c"};
  static const char *const bad[] = {"",    ".",   "a.",     ".a",   "a..b", "a b",
                                    "a.*", "a.>", "$SYS.x", "a.$b", "a\tb", "a\177"};
  char caller[NODE_ID + 1], longest[SUBJECT_MAX + 2];
  for (size_t i = 0; i < sizeof good / sizeof *good; i++)
    assert_null(subject_fault(good[i]));
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    assert_non_null(subject_fault(bad[i]));
  memset(longest, 'x', sizeof longest);
  longest[SUBJECT_MAX] = '\0';
  assert_null(subject_fault(longest));
  longest[SUBJECT_MAX] = 'x', longest[SUBJECT_MAX + 1] = '\0';
  assert_non_null(subject_fault(longest));
  assert_int_equal(subject_caller("_INBOX.ABCDEFGHIJKLMNOPQRSTUV.s.1f", caller), 1);
  assert_string_equal(caller, ID);
  assert_int_equal(subject_caller("_INBOX.ABCDEFGHIJKLMNOPQRSTU.s.1f", caller), 0);
  assert_int_equal(subject_caller("_INBOX.ABCDEFGHIJKLMNOPQRST.V.s.1", caller), 0);
  assert_int_equal(subject_caller("other.ABCDEFGHIJKLMNOPQRSTUVWX.s.1", caller), 0);
  assert_int_equal(subject_caller("", caller), 0);
}

static void test_room_is_what_was_announced(void **state) {
  struct room room;
  int is_new;
  room_init(&room);
  assert_null(room_pick(&room));
  struct node_beat b = a_beat(ID, 2, 0, 1);
  struct room_node *n = room_beat(&room, &b, 1000, &is_new);
  assert_int_equal(is_new, 1);
  assert_ptr_equal(room_pick(&room), n);
  assert_int_equal(room_places(&room), 2);
  room_sent(n, 1);
  room_sent(n, 1);
  assert_null(room_pick(&room));
  b.held = 2; /* both are ours: no less room than before */
  assert_ptr_equal(room_beat(&room, &b, 1300, &is_new), n);
  assert_int_equal(is_new, 0);
  assert_null(room_pick(&room));
  room_back(n, 1);
  assert_ptr_equal(room_pick(&room), n);
  b.held = 2; /* one is another caller's */
  room_beat(&room, &b, 1600, &is_new);
  assert_null(room_pick(&room));
  b.held = 0;
  room_beat(&room, &b, 1900, &is_new);
  room_full(n);
  assert_null(room_pick(&room));
  room_beat(&room, &b, 2200, &is_new);
  assert_ptr_equal(room_pick(&room), n);
  room_absent(n);
  assert_null(room_pick(&room));
  b.draining = 1;
  room_beat(&room, &b, 2500, &is_new);
  assert_null(room_pick(&room));
  room_remove(&room, n);
}

static void test_the_least_busy_node_is_picked(void **state) {
  struct room room;
  int is_new;
  room_init(&room);
  struct node_beat small = a_beat(ID, 20, 0, 1), large = a_beat(OTHER, 20, 0, 4);
  struct room_node *one = room_beat(&room, &small, 0, &is_new);
  struct room_node *four = room_beat(&room, &large, 0, &is_new);
  unsigned to_one = 0;
  for (int i = 0; i < 10; i++) {
    struct room_node *n = room_pick(&room);
    room_sent(n, 1);
    to_one += n == one;
  }
  assert_int_equal(to_one, 2);
  large.failed = 1; /* its pool answers with errors only */
  room_beat(&room, &large, 0, &is_new);
  assert_ptr_equal(room_pick(&room), one);
  room_absent(one);
  assert_null(room_pick(&room)); /* better to wait for the healthy one */
  room_remove(&room, one);
  assert_ptr_equal(room_pick(&room), four);
  room_remove(&room, four);
}

/* Chunks take so much of the window that each worker has `load` of them. */
static void test_a_chunk_takes_more_room_than_a_call(void **state) {
  struct room room;
  int is_new;
  room_init(&room);
  struct node_beat b = a_beat(ID, 20, 0, 2); /* a load of 2 */
  struct room_node *n = room_beat(&room, &b, 0, &is_new);
  assert_int_equal(room_chunk_places(n), 5);
  for (int i = 0; i < 4; i++) {
    assert_ptr_equal(room_pick(&room), n);
    room_sent(n, 5);
  }
  assert_null(room_pick(&room));
  room_back(n, 5);
  assert_int_equal(room_places(&room), 5);
  static const struct {
    unsigned window, workers, load, places;
  } cases[] = {{1, 2, 2, 1},
               {4, 2, 2, 1},
               {8, 2, 2, 2},
               {20, 0, 2, 1},
               {20, 2, 0, 1},
               {UINT32_MAX, UINT32_MAX, UINT32_MAX, 1},
               {UINT32_MAX, 1, 1, UINT32_MAX}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    b = a_beat(ID, cases[i].window, 0, cases[i].workers);
    b.load = cases[i].load;
    room_beat(&room, &b, 0, &is_new);
    assert_int_equal(room_chunk_places(n), cases[i].places);
  }
  room_remove(&room, n);
}

static void test_silent_nodes_are_gone(void **state) {
  struct room room;
  int is_new;
  room_init(&room);
  struct node_beat b = a_beat(ID, 2, 0, 1);
  struct room_node *n = room_beat(&room, &b, 0, &is_new);
  for (int i = 0; i < ROOM_TICKS; i++)
    room_tick(&room);
  assert_null(room_gone(&room));
  room_alive(n, 5);
  for (int i = 0; i < ROOM_TICKS; i++)
    room_tick(&room);
  assert_null(room_gone(&room));
  room_tick(&room);
  assert_ptr_equal(room_gone(&room), n);
  room_remove(&room, n);
  assert_null(room_gone(&room));
}

static void test_strangers_fill_no_memory(void **state) {
  struct room room;
  int is_new;
  room_init(&room);
  struct node_beat b = a_beat(ID, 2, 0, 1);
  for (int i = 0; i < 3000; i++) {
    snprintf(b.node, sizeof b.node, "%022d", i);
    room_beat(&room, &b, 0, &is_new);
  }
  assert_int_equal(room.n, ROOM_NODES);
  while (!list_empty(&room.nodes))
    room_remove(&room, list_entry(room.nodes.next, struct room_node, link));
}

static void test_durations(void **state) {
  struct call_times t = {{0}};
  mf_pool_times p;
  call_times_read(&t, &p);
  assert_true(p.p50_us == 0 && p.max_us == 0);
  for (uint64_t us = 1; us <= 1000; us++)
    call_times_add(&t, us);
  call_times_read(&t, &p);
  assert_in_range(p.p50_us, 500, 500 + 500 / 32 + 1);
  assert_in_range(p.p99_us, 990, 1000);
  assert_int_equal(p.max_us, 1000);
  call_times_add(&t, UINT64_MAX);
  call_times_read(&t, &p);
  assert_true(p.max_us == UINT64_MAX);
  for (int i = 0; i < 100000; i++) /* what is long ago weighs little */
    call_times_add(&t, 10);
  call_times_read(&t, &p);
  assert_int_equal(p.p90_us, 10);
}

static void test_options_begin_as_their_macros(void **state) {
  const mf_job_options job = MF_JOB_OPTIONS_INIT;
  const mf_nats_options nats = MF_NATS_OPTIONS_INIT;
  mf_job_options j;
  mf_nats_options n;
  memset(&j, 0xff, sizeof j);
  memset(&n, 0xff, sizeof n);
  mf_job_options_init(&j);
  mf_nats_options_init(&n);
  assert_true(j.size == job.size && j.id == job.id && j.id_length == job.id_length &&
              j.delay_ms == job.delay_ms && j.tries == job.tries &&
              j.lease_ms == job.lease_ms && j.timeout_ms == job.timeout_ms);
  assert_true(n.size == nats.size && n.url == nats.url && n.subject == nats.subject &&
              n.beat_ms == nats.beat_ms && n.silent_ms == nats.silent_ms);
  mf_job_options_init(NULL);
  mf_nats_options_init(NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_calls_there_and_back),
      cmocka_unit_test(test_answers_there_and_back),
      cmocka_unit_test(test_an_end_that_no_process_has_is_none),
      cmocka_unit_test(test_an_error_is_cut_to_its_room),
      cmocka_unit_test(test_every_cut_is_noticed),
      cmocka_unit_test(test_the_other_side_is_not_believed),
      cmocka_unit_test(test_other_versions_are_told),
      cmocka_unit_test(test_beats),
      cmocka_unit_test(test_subjects),
      cmocka_unit_test(test_room_is_what_was_announced),
      cmocka_unit_test(test_the_least_busy_node_is_picked),
      cmocka_unit_test(test_a_chunk_takes_more_room_than_a_call),
      cmocka_unit_test(test_silent_nodes_are_gone),
      cmocka_unit_test(test_strangers_fill_no_memory),
      cmocka_unit_test(test_durations),
      cmocka_unit_test(test_options_begin_as_their_macros),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
