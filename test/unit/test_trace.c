/* The trace of a process: one file for all threads, begun and ended at any time, and
 * never written by a forked copy. */
#include "unit.h"

#include "help/json.h"
#include "os/proc.h"
#include "parent/private.h"
#include "parent/trace/trace.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/moonfork-trace.XXXXXX";
static char path[64], other[64];

static int setup(void **state) {
  assert_non_null(mkdtemp(folder));
  snprintf(path, sizeof path, "%s/t.json", folder);
  snprintf(other, sizeof other, "%s/other.json", folder);
  return 0;
}

static int teardown(void **state) {
  mf_trace(NULL);
  unlink(path);
  unlink(other);
  rmdir(folder);
  strcpy(folder + strlen(folder) - 6, "XXXXXX");
  return 0;
}

/* The file's text; it is JSON. */
static const char *contents(const char *name) {
  static char all[16 << 20];
  FILE *in = fopen(name, "r");
  assert_non_null(in);
  all[fread(all, 1, sizeof all - 1, in)] = 0;
  fclose(in);
  assert_true(json_is(all));
  return all;
}

/* Without strstr: ASan measures the whole rest of the file for each call of it. */
static int count(const char *name, const char *part) {
  size_t length = strlen(part);
  int n = 0;
  for (const char *c = contents(name); *c; c++)
    n += *c == *part && strncmp(c, part, length) == 0;
  return n;
}

static uint64_t now(void) {
  return proc_now_ns() / 1000;
}

static void nothing_is_traced_until_it_is_asked_for(void **state) {
  assert_false(trace_is_on());
  trace_mark(NULL, now(), "unseen", NULL);
  assert_int_equal(mf_trace(NULL), 0);
  assert_int_equal(mf_trace(path), 0);
  assert_true(trace_is_on());
  assert_int_equal(count(path, "\"process_name\""), 1); /* the parent's, at once */
  trace_mark(NULL, now(), "seen", TRACE_ARGS(TRACE_TEXT("why", "a \"reason\"")));
  trace_rest();
  assert_int_equal(count(path, "\"seen\""), 1);
  assert_int_equal(mf_trace(NULL), 0);
  assert_false(trace_is_on());
  assert_int_equal(count(path, "unseen"), 0);
  assert_int_equal(mf_trace_error(), 0);
}

static void a_path_may_have_the_number_of_the_process(void **state) {
  char wanted[64], got[80];
  snprintf(wanted, sizeof wanted, "%s/%%p-%%%%-%%d", folder);
  snprintf(got, sizeof got, "%s/%d-%%-%%d", folder, (int)getpid());
  assert_int_equal(mf_trace(wanted), 0);
  assert_int_equal(mf_trace(NULL), 0);
  assert_int_equal(count(got, "\"process_name\""), 1);
  unlink(got);
}

static void a_refused_path_changes_nothing(void **state) {
  assert_int_equal(mf_trace(path), 0);
  assert_int_equal(mf_trace("/no/such/folder/t"), -ENOENT);
  assert_int_equal(mf_trace(folder), -EINVAL);
  assert_int_equal(mf_trace(""), MF_EINVAL);
  assert_true(trace_is_on());
  assert_false(mf_trace_failed());
  trace_mark(NULL, now(), "still", NULL);
  assert_int_equal(mf_trace(NULL), 0);
  assert_int_equal(count(path, "\"still\""), 1);
}

static void a_new_path_ends_the_trace_before(void **state) {
  struct trace_row row = {0};
  assert_int_equal(mf_trace(path), 0);
  trace_open(&row, 77, "one", 1);
  trace_begin(&row, now(), "c", "span", NULL);
  assert_int_equal(mf_trace(other), 0);
  assert_false(trace_owns(&row));
  trace_begin(&row, now(), "c", "of the trace before", NULL);
  trace_leave(&row, now());
  assert_int_equal(count(path, "\"ph\":\"B\""), 1);
  assert_int_equal(count(path, "\"ph\":\"E\""), 1);
  assert_int_equal(mf_trace(NULL), 0);
  assert_int_equal(count(other, "\"ph\":\"B\""), 0);
  assert_int_equal(count(other, "\"process_name\""), 1);
}

static void the_same_path_begins_anew(void **state) {
  assert_int_equal(mf_trace(path), 0);
  trace_mark(NULL, now(), "first", NULL);
  assert_int_equal(mf_trace(path), 0);
  trace_mark(NULL, now(), "second", NULL);
  assert_int_equal(mf_trace(NULL), 0);
  assert_int_equal(count(path, "\"first\""), 0);
  assert_int_equal(count(path, "\"second\""), 1);
}

static void rows_have_numbers_of_their_own(void **state) {
  struct trace_row a = {0}, b = {0}, c = {0}, d = {0};
  assert_int_equal(mf_trace(path), 0);
  trace_open(&a, 4711, "a", 1);
  trace_open(&b, 4711, "b", 2); /* the number was used again */
  trace_open(&c, -1, "c", 3);
  trace_open(&d, (int)getpid(), "d", 4);
  assert_int_equal(a.id, 4711);
  assert_true(b.id > 1 << 22 || b.id == 1 << 22);
  assert_true(c.id != b.id && c.id > 4711 && d.id != c.id && d.id != getpid());
  trace_leave(&a, now());
  trace_leave(&b, now());
  trace_leave(&c, now());
  trace_leave(&d, now());
}

static void the_end_of_a_row_ends_its_spans(void **state) {
  struct trace_row row = {0};
  assert_int_equal(mf_trace(path), 0);
  trace_open(&row, 12, "row", 1);
  trace_end(&row, now(), NULL); /* nothing is open */
  for (int i = 0; i < 3; i++)
    trace_begin(&row, now(), "c", "span", NULL);
  trace_end(&row, now(), NULL);
  trace_leave(&row, now());
  trace_leave(&row, now());
  assert_int_equal(mf_trace(NULL), 0);
  assert_int_equal(count(path, "\"ph\":\"B\""), 3);
  assert_int_equal(count(path, "\"ph\":\"E\""), 3);
}

enum { THREADS = 4, SPANS = 3000 };

static void *write_row(void *data) {
  int number = *(int *)data;
  for (int i = 0; i < SPANS; i++) {
    struct trace_row row = {0};
    trace_open(&row, number + i * THREADS, "a thread's", 1);
    trace_begin(&row, now(), "c", "outer", NULL);
    trace_begin(&row, now(), "c", "inner", TRACE_ARGS(TRACE_NUMBER("i", i)));
    trace_leave(&row, now());
    if (i % 50 == 0)
      trace_rest();
  }
  return NULL;
}

static void run_threads(void (*meanwhile)(void)) {
  pthread_t threads[THREADS];
  int numbers[THREADS];
  for (int i = 0; i < THREADS; i++) {
    numbers[i] = 1000 + i;
    assert_int_equal(pthread_create(&threads[i], NULL, write_row, &numbers[i]), 0);
  }
  if (meanwhile)
    meanwhile();
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
}

static void threads_share_one_file(void **state) {
  assert_int_equal(mf_trace(path), 0);
  run_threads(NULL);
  assert_int_equal(mf_trace(NULL), 0);
  assert_int_equal(count(path, "\"ph\":\"B\""), 2 * THREADS * SPANS);
  assert_int_equal(count(path, "\"ph\":\"E\""), 2 * THREADS * SPANS);
}

static void begin_and_end(void) {
  for (int i = 0; i < 200; i++) {
    assert_int_equal(mf_trace(i % 2 ? path : other), 0);
    if (i % 5 == 0)
      assert_int_equal(mf_trace(NULL), 0);
  }
}

static void threads_go_on_while_traces_come_and_go(void **state) {
  run_threads(begin_and_end);
  assert_int_equal(mf_trace(NULL), 0);
  assert_int_equal(count(path, "\"ph\":\"B\""), count(path, "\"ph\":\"E\""));
  assert_int_equal(count(other, "\"ph\":\"B\""), count(other, "\"ph\":\"E\""));
}

/* What runs in a copy; 0 is right. */
static int in_copy(int (*f)(void)) {
  int status;
  pid_t pid = fork();
  if (pid == 0)
    exit(f()); /* with the handlers of exit */
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return status;
}

static int do_not_trace(void) {
  trace_mark(NULL, now(), "the copy's", NULL);
  trace_rest();
  return trace_is_on();
}

static int trace_elsewhere(void) {
  if (mf_trace(path) != -EWOULDBLOCK || mf_trace(other) != 0)
    return 1;
  trace_mark(NULL, now(), "the copy's", NULL);
  return 0;
}

static void a_copy_never_writes_its_parents_trace(void **state) {
  assert_int_equal(mf_trace(path), 0);
  trace_mark(NULL, now(), "before", NULL); /* in memory, and so in the copy's */
  assert_int_equal(in_copy(do_not_trace), 0);
  assert_int_equal(in_copy(trace_elsewhere), 0);
  trace_mark(NULL, now(), "after", NULL);
  assert_int_equal(mf_trace(NULL), 0);
  assert_int_equal(count(path, "\"before\""), 1);
  assert_int_equal(count(path, "\"after\""), 1);
  assert_int_equal(count(path, "the copy's"), 0);
  assert_int_equal(count(other, "the copy's"), 1);
  assert_int_equal(count(other, "\"before\""), 0);
}

static int fill_the_disk(void) {
  struct rlimit limit = {600 * 1024, 600 * 1024};
  struct trace_failure f;
  struct trace_row row = {0};
  signal(SIGXFSZ, SIG_DFL);
  if (mf_trace(path) || setrlimit(RLIMIT_FSIZE, &limit) < 0)
    return 1;
  trace_open(&row, 5, "row", 1);
  for (int i = 0; i < 20000; i++)
    trace_mark(&row, now(), "a mark", NULL);
  trace_leave(&row, now());
  if (trace_is_on() || mf_trace_error() != -EFBIG || !mf_trace_failed())
    return 2;
  if (!mf_trace_take_failure(&f) || f.code != -EFBIG || strcmp(f.path, path) || f.wanted)
    return 3;
  free(f.path);
  if (mf_trace_failed() || mf_trace_take_failure(&f))
    return 4;
  return mf_trace(NULL) == 0 && mf_trace_error() == 0 ? 0 : 5;
}

static void a_full_disk_ends_the_trace_and_is_told_once(void **state) {
  assert_int_equal(in_copy(fill_the_disk), 0);
  assert_true(count(path, "a mark") > 1000);
}

static void the_environment_may_ask_for_a_trace(void **state) {
  assert_int_equal(setenv("MOONFORK_TRACE", path, 1), 0);
  trace_from_environment(); /* a call has decided: it counts no more */
  assert_false(trace_is_on());
  assert_int_equal(unsetenv("MOONFORK_TRACE"), 0);
}

static int ask_by_environment(void) {
  setenv("MOONFORK_TRACE", path, 1);
  trace_from_environment();
  if (!trace_is_on())
    return 1;
  trace_mark(NULL, now(), "by the environment", NULL);
  return 0;
}

static int ask_for_nonsense(void) {
  struct trace_failure f;
  setenv("MOONFORK_TRACE", "/no/such/folder/t", 1);
  trace_from_environment();
  trace_from_environment();
  if (trace_is_on() || mf_trace_error() != -ENOENT || !mf_trace_take_failure(&f))
    return 1;
  free(f.path);
  return !f.wanted;
}

static void each_program_has_a_file_of_its_own(void **state) {
  char own[80];
  int status;
  pid_t pid;
  assert_int_equal(in_copy(ask_by_environment), 0);
  assert_int_equal(count(path, "by the environment"), 1);
  assert_int_equal(mf_trace(path), 0);
  pid = fork();
  if (pid == 0)
    exit(ask_by_environment());
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  snprintf(own, sizeof own, "%s.%d", path, (int)pid);
  assert_int_equal(count(own, "by the environment"), 1);
  assert_int_equal(count(path, "by the environment"), 0);
  unlink(own);
  assert_int_equal(in_copy(ask_for_nonsense), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(nothing_is_traced_until_it_is_asked_for),
      TEST(a_path_may_have_the_number_of_the_process),
      TEST(a_refused_path_changes_nothing),
      TEST(a_new_path_ends_the_trace_before),
      TEST(the_same_path_begins_anew),
      TEST(rows_have_numbers_of_their_own),
      TEST(the_end_of_a_row_ends_its_spans),
      TEST(threads_share_one_file),
      TEST(threads_go_on_while_traces_come_and_go),
      TEST(a_copy_never_writes_its_parents_trace),
      TEST(a_full_disk_ends_the_trace_and_is_told_once),
      TEST(the_environment_may_ask_for_a_trace),
      TEST(each_program_has_a_file_of_its_own),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
