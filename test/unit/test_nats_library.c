/* libmoonfork-nats as a C host has it: options, an engine that can't be reached, and an
 * end that leaves nothing on the loop, no descriptor and no thread. (Calls that are
 * answered: test/proc/nats_calls.lua.) */
#include "nats_kit.h"

#include <dirent.h>
#include <moonfork/nats.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

static int count(const char *folder) {
  DIR *d = opendir(folder);
  int n = 0;
  assert_non_null(d);
  while (readdir(d))
    n++;
  closedir(d);
  return n;
}

static mf_nats_options options(void) {
  mf_nats_options o = MF_NATS_OPTIONS_INIT;
  o.url = url;
  o.subject = "a.b";
  return o;
}

static int closed, answers, last_code, last_started;

static void on_closed(mf_far *far, void *data) {
  closed++;
}

static void on_reply(const mf_error *error, const mf_message *reply, void *data) {
  assert_non_null(error);
  assert_null(reply);
  answers++;
  last_code = error->code;
  last_started = error->started;
}

static void test_options_are_checked(void **state) {
  static const char *const subjects[] = {NULL, "", "a b", "a.*", ">", "a..b", "$JS.x"};
  mf_far *far = NULL;
  mf_node *node = NULL;
  for (size_t i = 0; i < sizeof subjects / sizeof *subjects; i++) {
    mf_nats_options o = options();
    o.subject = subjects[i];
    assert_int_equal(mf_far_new(NULL, &o, &far), MF_EINVAL);
    assert_int_equal(mf_node_new(NULL, &o, &node), MF_EINVAL);
  }
  mf_nats_options o = options();
  o.url = NULL;
  assert_int_equal(mf_far_new(NULL, &o, &far), MF_EINVAL);
  o = options();
  o.password = "secret";
  assert_int_equal(mf_far_new(NULL, &o, &far), MF_EINVAL);
  o = options();
  o.size = 8;
  assert_int_equal(mf_far_new(NULL, &o, &far), MF_EINVAL);
  assert_int_equal(mf_far_new(NULL, NULL, &far), MF_EINVAL);
  o = options();
  assert_int_equal(mf_far_new(NULL, &o, NULL), MF_EINVAL);
  assert_int_equal(mf_node_new(NULL, &o, &node), MF_EINVAL);
  static const char *const urls[] = {"", "http://x", "nats://a,x://b", "a b", "a\tb"};
  for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
    o.url = urls[i];
    assert_int_equal(mf_far_new(NULL, &o, &far), MF_EINVAL);
  }
}

/* A header of the first version ended behind `idempotent`. */
struct old_call_options {
  size_t size;
  unsigned timeout_ms;
  int idempotent;
};

static void test_no_object_is_no_crash(void **state) {
  mf_far_node nodes[1];
  mf_drain_report report = {.size = sizeof report};
  assert_int_equal(mf_far_cancel(NULL, 1), MF_EINVAL);
  assert_int_equal(mf_far_drain(NULL, 0, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_far_drain_report(NULL, &report), MF_EINVAL);
  assert_int_equal(mf_far_nodes(NULL, nodes, sizeof *nodes, 1), 0);
  assert_int_equal(mf_far_on_dead(NULL, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_node_drain(NULL, 0, NULL, NULL), MF_EINVAL);
  mf_far_abort(NULL);
  mf_node_abort(NULL);
  closed = 0;
  mf_far_close(NULL, on_closed, NULL);
  mf_node_close(NULL, NULL, NULL);
  assert_int_equal(closed, 0);
}

static void test_wrong_arguments_are_refused(void **state) {
  uv_loop_t loop;
  mf_far *far;
  mf_message m = {"\x90", 1, NULL, 0}, nothing = {NULL, 1, NULL, 0};
  mf_nats_options o = options();
  mf_far_info info = {0};
  int fd = 0;
  mf_message with_fd = {"\x90", 1, &fd, 1};
  mf_call_options co = MF_CALL_OPTIONS_INIT;
  assert_int_equal(uv_loop_init(&loop), 0);
  assert_int_equal(mf_far_new(&loop, &o, &far), 0);
  assert_int_equal(mf_far_call(NULL, &m, NULL, on_reply, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_far_call(far, NULL, NULL, on_reply, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_far_call(far, &nothing, NULL, on_reply, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_far_call(far, &with_fd, NULL, on_reply, NULL, NULL), MF_EINVAL);
  co.chunk = 1; /* it is none, and its descriptor is no record */
  assert_int_equal(mf_far_call(far, &m, &co, on_reply, NULL, NULL), MF_EINVAL);
  mf_message chunk = {"\1\0\0\0\0\0\0\0\1\0\0\0\x90", 13, &fd, 1};
  assert_int_equal(mf_far_call(far, &chunk, &co, on_reply, NULL, NULL), MF_EINVAL);
  co.size = 0;
  assert_int_equal(mf_far_call(far, &m, &co, on_reply, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_far_stats(far, NULL), MF_EINVAL);
  assert_int_equal(mf_far_stats(far, &info), MF_EINVAL);
  assert_int_equal(mf_far_drain_report(far, NULL), MF_EINVAL);
  assert_int_equal(mf_node_stats(NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_far_post(far, NULL, NULL, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_far_post(far, &nothing, NULL, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_far_post(far, &with_fd, NULL, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_far_result(far, NULL, 0, 0, on_reply, NULL), MF_EINVAL);
  assert_int_equal(mf_far_result(far, "x", 1, 0, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_far_result(far, "x", 0, 0, on_reply, NULL), MF_EINVAL);
  assert_int_equal(mf_far_cancel_job(far, NULL, 1, 0, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_far_jobs(far, 0, NULL, NULL), MF_EINVAL);
  /* nobody wants to know: no callback */
  struct old_call_options old = {sizeof old, 50, 0};
  answers = 0;
  assert_int_equal(
      mf_far_call(far, &m, (const mf_call_options *)(void *)&old, NULL, NULL, NULL), 0);
  assert_int_equal(mf_far_post(far, &m, NULL, NULL, NULL), 0);
  mf_far_abort(far);
  mf_far_close(far, NULL, NULL);
  uv_run(&loop, UV_RUN_DEFAULT);
  assert_int_equal(answers, 0);
  assert_int_equal(uv_loop_close(&loop), 0);
}

static void test_an_end_leaves_nothing(void **state) {
  uv_loop_t loop;
  mf_far *far;
  mf_message m = {"\x91\x01", 2, NULL, 0};
  mf_nats_options o = options();
  uint64_t id;
  assert_int_equal(uv_loop_init(&loop), 0); /* libuv keeps two descriptors of its first */
  assert_int_equal(uv_loop_close(&loop), 0);
  int threads = count("/proc/self/task"), fds = count("/proc/self/fd");
  assert_int_equal(uv_loop_init(&loop), 0);
  o.timeout_ms = 200;
  assert_int_equal(mf_far_new(&loop, &o, &far), 0);
  assert_int_equal(mf_far_call(far, &m, NULL, on_reply, NULL, NULL), 0);
  assert_int_equal(mf_far_call(far, &m, NULL, on_reply, NULL, &id), 0);
  assert_int_equal(mf_far_cancel(far, id), 0);
  assert_true(mf_far_cancel(far, id) < 0);
  assert_int_equal(answers, 0);
  uv_run(&loop, UV_RUN_DEFAULT); /* until both have their answer: nothing else keeps it */
  assert_int_equal(answers, 2);
  assert_int_equal(last_code, MF_EENGINE);
  assert_int_equal(last_started, MF_STARTED_NO);
  mf_far_info info = {.size = sizeof info};
  assert_int_equal(mf_far_stats(far, &info), 0);
  assert_true(info.calls == 2 && info.cancelled == 1 && info.queued == 0 &&
              info.running == 0);
  assert_int_equal(mf_far_nodes(far, NULL, sizeof(mf_far_node), 0), 0);
  mf_far_close(far, on_closed, NULL);
  assert_int_equal(mf_far_call(far, &m, NULL, on_reply, NULL, NULL), MF_ECLOSED);
  uv_run(&loop, UV_RUN_DEFAULT);
  assert_int_equal(closed, 1);
  assert_int_equal(uv_loop_close(&loop), 0);
  assert_int_equal(count("/proc/self/task"), threads);
  assert_int_equal(count("/proc/self/fd"), fds);
}

static void test_an_abort_ends_calls_and_drains(void **state) {
  uv_loop_t loop;
  mf_far *far;
  mf_message m = {"\x90", 1, NULL, 0};
  mf_nats_options o = options();
  answers = closed = 0;
  assert_int_equal(uv_loop_init(&loop), 0);
  assert_int_equal(mf_far_new(&loop, &o, &far), 0);
  for (int i = 0; i < 10; i++)
    assert_int_equal(mf_far_call(far, &m, NULL, on_reply, NULL, NULL), 0);
  mf_far_abort(far);
  mf_far_close(far, on_closed, NULL);
  uv_run(&loop, UV_RUN_DEFAULT);
  assert_true(answers == 10 && closed == 1);
  assert_true(last_code == MF_ECANCELLED && last_started == MF_STARTED_NO);
  assert_int_equal(uv_loop_close(&loop), 0);
}

static void test_limits_of_what_waits(void **state) {
  uv_loop_t loop;
  mf_far *far;
  static char bytes[1 << 20];
  int fd = 0;
  mf_message small = {bytes, 100, NULL, 0}, large = {bytes, sizeof bytes, NULL, 0};
  mf_message handle = {bytes, 1, &fd, 1};
  mf_call_options chunk = MF_CALL_OPTIONS_INIT;
  mf_nats_options o = options();
  chunk.chunk = 1;
  o.queue_max = 2;
  assert_int_equal(uv_loop_init(&loop), 0);
  assert_int_equal(mf_far_new(&loop, &o, &far), 0);
  assert_int_equal(mf_far_call(far, &large, NULL, on_reply, NULL, NULL), MF_ELIMIT);
  assert_int_equal(mf_far_call(far, &handle, NULL, on_reply, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_far_call(far, &small, &chunk, on_reply, NULL, NULL), MF_EINVAL);
  for (int i = 0; i < 4; i++)
    assert_int_equal(mf_far_call(far, &small, NULL, on_reply, NULL, NULL),
                     i < 2 ? 0 : MF_ELIMIT);
  mf_far_abort(far);
  mf_far_close(far, NULL, NULL);
  uv_run(&loop, UV_RUN_DEFAULT);
  assert_int_equal(uv_loop_close(&loop), 0);
}

/* What mf_dump says of the loop; the text is the caller's. */
static char *dump(uv_loop_t *loop) {
  char *text = NULL;
  size_t n = 0;
  FILE *out = open_memstream(&text, &n);
  assert_non_null(out);
  assert_int_equal(mf_dump(loop, out), 0);
  assert_int_equal(fclose(out), 0);
  return text;
}

static void test_mf_dump_shows_far_pools_of_its_loop(void **state) {
  uv_loop_t loop;
  mf_far *far, *usual;
  mf_message m = {"\x90", 1, NULL, 0};
  mf_nats_options o = options();
  char *text;
  o.timeout_ms = 60000;
  o.user = "ada";
  o.password = "secret";
  assert_int_equal(uv_loop_init(&loop), 0);
  assert_int_equal(mf_far_new(&loop, &o, &far), 0);
  o.subject = "usual";
  assert_int_equal(mf_far_new(NULL, &o, &usual), 0);
  assert_int_equal(mf_far_call(far, &m, NULL, on_reply, NULL, NULL), 0);
  text = dump(&loop);
  assert_non_null(strstr(text, "far pool of \"a.b\": engine nats://127.0.0.1:"));
  assert_non_null(strstr(text, "1 calls wait, the oldest since 0."));
  assert_non_null(strstr(text, "its timeout in "));
  assert_null(strstr(text, "usual"));
  assert_null(strstr(text, "secret"));
  free(text);
  text = dump(NULL);
  assert_non_null(strstr(text, "far pool of \"usual\""));
  assert_null(strstr(text, "a.b"));
  free(text);
  text = dump(uv_default_loop());
  assert_non_null(strstr(text, "far pool of \"usual\""));
  free(text);
  mf_far_abort(far);
  mf_far_close(far, NULL, NULL);
  mf_far_close(usual, NULL, NULL);
  uv_run(&loop, UV_RUN_DEFAULT);
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
  text = dump(&loop);
  assert_null(strstr(text, "far pool"));
  free(text);
  assert_int_equal(uv_loop_close(&loop), 0);
  assert_int_equal(uv_loop_close(uv_default_loop()), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_options_are_checked),
      cmocka_unit_test(test_an_end_leaves_nothing),
      cmocka_unit_test(test_an_abort_ends_calls_and_drains),
      cmocka_unit_test(test_limits_of_what_waits),
      cmocka_unit_test(test_mf_dump_shows_far_pools_of_its_loop),
      cmocka_unit_test(test_wrong_arguments_are_refused),
      cmocka_unit_test(test_no_object_is_no_crash),
  };
  return cmocka_run_group_tests(tests, find_port, NULL);
}
