/* Option structs of an older and shorter version. mf_options with a smaller size was
 * accepted and then read in full; call options were read whatever they said. Each struct
 * here ends where readable memory ends, at every size from size_t on, so that one byte
 * too many ends the test; what the caller's struct lacks has to be the initial value.
 * Structs to be filled end there, too. Uses nothing but the installed interface. */
#include "unit.h"

#include <moonfork.h>
#include <moonfork/template.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

static unsigned char *page;
static size_t page_size;

static int make_page(void **state) {
  (void)state;
  setenv("MOONFORK_TEMPLATE", "/bin/true", 1);
  page_size = (size_t)sysconf(_SC_PAGESIZE);
  page = mmap(NULL, 2 * page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
              -1, 0);
  return page == MAP_FAILED || mprotect(page + page_size, page_size, PROT_NONE) != 0 ? -1
                                                                                     : 0;
}

/* The first `size` bytes of the struct, which says that this is all. */
static void *cut(const void *full, size_t size) {
  unsigned char *at = page + page_size - size;
  memcpy(at, full, size);
  memcpy(at, &size, sizeof size);
  return at;
}

static void turn(uv_loop_t *loop) {
  uv_run(loop, UV_RUN_DEFAULT);
}

/* Fields of a struct end at multiples of their sizes; half a pointer is nobody's version.
 */
enum { STEP = sizeof(void *) };

static void test_options(void **state) {
  (void)state;
  uv_loop_t *loop = uv_default_loop();
  const mf_options full = MF_OPTIONS_INIT;
  for (size_t size = STEP; size <= sizeof full; size += STEP) {
    mf_process *p, *q, *r;
    int pair[2];
    assert_int_equal(mf_new_exec(cut(&full, size), &p), 0);
    assert_int_equal(mf_fork_options(p, cut(&full, size), &q), 0);
    assert_int_equal(mf_new(cut(&full, size), &r), 0);
    mf_close(q, NULL, NULL);
    mf_close(p, NULL, NULL);
    mf_close(r, NULL, NULL);
    assert_int_equal(uv_socketpair(SOCK_STREAM, 0, pair, 0, 0), 0);
    assert_int_equal(mf_from_fd(cut(&full, size), pair[0], &p), 0);
    mf_close(p, NULL, NULL);
    close(pair[1]);
    turn(loop);
  }
}

static void test_options_that_are_longer(void **state) {
  (void)state;
  struct {
    mf_options known;
    void *later[4];
  } newer = {MF_OPTIONS_INIT, {&newer, &newer, &newer, &newer}};
  mf_process *p;
  assert_int_equal(mf_new_exec(cut(&newer, sizeof newer), &p), 0);
  mf_close(p, NULL, NULL);
  turn(uv_default_loop());
}

static void test_options_that_were_never_initialised(void **state) {
  (void)state;
  mf_options zero = {0};
  mf_rpc_options rpc_zero = {0};
  mf_pool_options pool_zero = {0}, pool_of_zero = MF_POOL_OPTIONS_INIT;
  mf_call_options call_zero = {0};
  mf_rpc_stats stats = {0};
  mf_pool_info info = {0};
  mf_template_options template_zero = {0};
  mf_message m = {"", 0, NULL, 0};
  mf_process *p;
  mf_rpc *rpc;
  mf_pool *pool;
  pool_of_zero.rpc = &rpc_zero;
  assert_int_equal(mf_new(&zero, &p), MF_EINVAL);
  assert_int_equal(mf_new_exec(&zero, &p), MF_EINVAL);
  assert_int_equal(mf_from_fd(&zero, dup(0), &p), MF_EINVAL);
  assert_int_equal(mf_early(&template_zero), MF_EINVAL);
  assert_int_equal(mf_new_exec(NULL, &p), 0);
  assert_int_equal(mf_fork_options(p, &zero, &p), MF_EINVAL);
  assert_int_equal(mf_rpc_new(p, "f", &rpc_zero, &rpc), MF_EINVAL);
  assert_int_equal(mf_pool_new(p, "f", &pool_zero, &pool), MF_EINVAL);
  assert_int_equal(mf_pool_new(p, "f", &pool_of_zero, &pool), MF_EINVAL);
  assert_int_equal(mf_rpc_new(p, "f", NULL, &rpc), 0);
  assert_int_equal(mf_rpc_call(rpc, &m, &call_zero, NULL, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_rpc_get_stats(rpc, &stats), MF_EINVAL);
  mf_rpc_close(rpc, NULL, NULL);
  assert_int_equal(mf_new_exec(NULL, &p), 0);
  assert_int_equal(mf_pool_new(p, "f", NULL, &pool), 0);
  assert_int_equal(mf_pool_call(pool, &m, &call_zero, NULL, NULL, NULL), MF_EINVAL);
  assert_int_equal(mf_pool_stats(pool, &info), MF_EINVAL);
  mf_pool_abort(pool);
  mf_pool_close(pool, NULL, NULL);
  turn(uv_default_loop());
}

static int answers;

static void on_answer(const mf_error *error, const mf_message *reply, void *data) {
  (void)error, (void)reply, (void)data;
  answers++;
}

static void test_rpc(void **state) {
  (void)state;
  const mf_rpc_options full = MF_RPC_OPTIONS_INIT;
  const mf_call_options call = MF_CALL_OPTIONS_INIT;
  mf_message m = {"", 0, NULL, 0};
  for (size_t size = STEP; size <= sizeof full; size += STEP) {
    mf_process *p;
    mf_rpc *rpc;
    int ncalls = 0;
    answers = 0;
    assert_int_equal(mf_new_exec(NULL, &p), 0);
    assert_int_equal(mf_rpc_new(p, "f", cut(&full, size), &rpc), 0);
    for (size_t n = STEP; n <= sizeof call; n += STEP, ncalls++)
      assert_int_equal(mf_rpc_call(rpc, &m, cut(&call, n), on_answer, NULL, NULL), 0);
    for (size_t n = STEP; n <= sizeof(mf_rpc_stats); n += STEP) {
      mf_rpc_stats stats = {.size = n};
      mf_rpc_stats *s = cut(&stats, n);
      assert_int_equal(mf_rpc_get_stats(rpc, s), 0);
      assert_int_equal(s->size, n);
      if (n > offsetof(mf_rpc_stats, pending))
        assert_int_equal(s->pending, ncalls);
    }
    mf_rpc_close(rpc, NULL, NULL);
    turn(uv_default_loop());
    assert_int_equal(answers, ncalls);
  }
}

static void test_pool(void **state) {
  (void)state;
  const mf_rpc_options rpc = MF_RPC_OPTIONS_INIT;
  const mf_call_options call = MF_CALL_OPTIONS_INIT;
  mf_message m = {"", 0, NULL, 0};
  for (size_t size = STEP; size <= sizeof(mf_pool_options); size += STEP) {
    mf_pool_options full = MF_POOL_OPTIONS_INIT;
    unsigned char *middle = malloc(sizeof rpc - STEP); /* an end that ASan watches */
    size_t less = sizeof rpc - STEP;
    mf_process *p;
    mf_pool *pool;
    memcpy(middle, &rpc, less);
    memcpy(middle, &less, sizeof less);
    full.rpc = (const void *)middle;
    assert_int_equal(mf_new_exec(NULL, &p), 0);
    assert_int_equal(mf_pool_new(p, "f", cut(&full, size), &pool), 0);
    free(middle);
    for (size_t n = STEP; n <= sizeof call; n += STEP)
      assert_int_equal(mf_pool_call(pool, &m, cut(&call, n), on_answer, NULL, NULL), 0);
    for (size_t n = STEP; n <= sizeof(mf_pool_info); n += STEP) {
      mf_pool_info info = {.size = n};
      mf_pool_info *s = cut(&info, n);
      assert_int_equal(mf_pool_stats(pool, s), 0);
      assert_int_equal(s->size, n);
    }
    mf_pool_abort(pool);
    mf_pool_close(pool, NULL, NULL);
    turn(uv_default_loop());
  }
}

/* In a process of its own: whoever has called mf_early keeps a copy until it ends. */
static void test_template_options(void **state) {
  (void)state;
  const mf_template_options full = MF_TEMPLATE_OPTIONS_INIT;
  for (size_t size = STEP; size <= sizeof full; size += STEP) {
    int status;
    pid_t pid = fork();
    if (pid == 0)
      _exit(mf_early(cut(&full, size)) == 0 ? 0 : 1);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_template_options), /* first: no thread and no loop yet */
      cmocka_unit_test(test_options),
      cmocka_unit_test(test_options_that_are_longer),
      cmocka_unit_test(test_options_that_were_never_initialised),
      cmocka_unit_test(test_rpc),
      cmocka_unit_test(test_pool),
  };
  return cmocka_run_group_tests(tests, make_page, NULL);
}
