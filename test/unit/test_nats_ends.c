/* The end of nodes and far pools: it comes while nothing else keeps the loop, also after
 * a drain; a second close is none; and in a forked copy of the program their functions do
 * nothing. There is no server. */
#include "nats_kit.h"

#include "nats/caller_private.h"
#include "nats/node.h"
#include <moonfork/nats.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

enum { TURNS = 3 };

static uv_loop_t loop;
static mf_far *far;
static mf_node *node;
static int ndrained, nclosed;

static int no_call(void *pool, const mf_message *m, const mf_call_options *o,
                   mf_reply_cb cb, void *data, uint64_t *ret_id) {
  return MF_ECLOSED;
}

static int no_cancel(void *pool, uint64_t id) {
  return -ESRCH;
}

static int no_stats(void *pool, mf_pool_info *info) {
  *info = (mf_pool_info){.size = sizeof *info, .max = 1};
  return 0;
}

static int setup(void **state) {
  static const struct node_pool pool = {NULL, no_call, no_cancel, no_stats, NULL};
  mf_nats_options o = MF_NATS_OPTIONS_INIT;
  ndrained = nclosed = 0;
  assert_int_equal(uv_loop_init(&loop), 0);
  o.url = url;
  o.subject = "a.b";
  o.loop = &loop;
  o.beat_ms = 10;
  assert_int_equal(far_new(&loop, &o, &far), 0);
  assert_int_equal(node_new(&pool, &o, &node), 0);
  return 0;
}

static int teardown(void **state) {
  uv_run(&loop, UV_RUN_DEFAULT); /* nothing keeps it but what is ending */
  assert_int_equal(nclosed, 2);
  assert_int_equal(uv_loop_close(&loop), 0);
  return 0;
}

static void on_far_drained(mf_far *f, const mf_error *error, void *data) {
  ndrained++;
}

static void on_node_drained(mf_node *n, const mf_error *error, void *data) {
  ndrained++;
}

static void on_far_closed(mf_far *f, void *data) {
  far = NULL;
  nclosed++;
}

static void on_node_closed(mf_node *n, void *data) {
  node = NULL;
  nclosed++;
}

static void close_both(void) {
  if (far)
    mf_far_close(far, on_far_closed, NULL);
  if (node)
    mf_node_close(node, on_node_closed, NULL);
}

static void test_a_close_after_a_drain(void **state) {
  assert_int_equal(mf_far_drain(far, MF_NO_TIMEOUT, on_far_drained, NULL), 0);
  assert_int_equal(mf_node_drain(node, MF_NO_TIMEOUT, on_node_drained, NULL), 0);
  uv_run(&loop, UV_RUN_DEFAULT);
  assert_int_equal(ndrained, 2);
  close_both();
}

static void test_a_close_after_an_abort(void **state) {
  mf_far_abort(far);
  mf_node_abort(node);
  uv_run(&loop, UV_RUN_DEFAULT);
  close_both();
}

static void test_a_close_of_what_is_closing(void **state) {
  close_both();
  for (int i = 0; i < TURNS; i++) {
    close_both();
    uv_run(&loop, UV_RUN_NOWAIT);
    mf_far_close(far, NULL, NULL);
    mf_node_close(node, NULL, NULL);
  }
}

static void on_reply(const mf_error *error, const mf_message *reply, void *data) {
}

static void on_cancelled(const mf_error *error, int taken, void *data) {
}

static void on_jobs(const mf_error *error, const mf_jobs_info *info, void *data) {
}

static void check_copy(void) {
  mf_message m = {"\x90", 1, NULL, 0};
  mf_far_info far_info = {.size = sizeof far_info};
  mf_node_info node_info = {.size = sizeof node_info};
  mf_drain_report report = {.size = sizeof report};
  mf_far_node nodes[1];
  int ok = mf_far_call(far, &m, NULL, NULL, NULL, NULL) == MF_EFORKED &&
           mf_far_cancel(far, 1) == MF_EFORKED &&
           mf_far_drain(far, 0, NULL, NULL) == MF_EFORKED &&
           mf_far_drain_report(far, &report) == MF_EFORKED &&
           mf_far_stats(far, &far_info) == MF_EFORKED &&
           mf_far_nodes(far, nodes, sizeof *nodes, 1) == 0 &&
           mf_far_post(far, &m, NULL, NULL, NULL) == MF_EFORKED &&
           mf_far_result(far, "x", 1, 0, on_reply, NULL) == MF_EFORKED &&
           mf_far_cancel_job(far, "x", 1, 0, on_cancelled, NULL) == MF_EFORKED &&
           mf_far_on_dead(far, NULL, NULL) == MF_EFORKED &&
           mf_far_jobs(far, 0, on_jobs, NULL) == MF_EFORKED &&
           mf_node_drain(node, 0, NULL, NULL) == MF_EFORKED &&
           mf_node_stats(node, &node_info) == MF_EFORKED;
  mf_far_abort(far);
  mf_node_abort(node);
  close_both();
  uv_run(&loop, UV_RUN_NOWAIT);
  _exit(ok && nclosed == 0 ? 0 : 1);
}

static void test_a_forked_copy(void **state) {
  int status = -1;
  pid_t pid = fork();
  if (pid == 0)
    check_copy();
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  close_both();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_a_close_after_a_drain, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_close_after_an_abort, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_close_of_what_is_closing, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_forked_copy, setup, teardown),
  };
  return cmocka_run_group_tests(tests, find_port, NULL);
}
