/* trace_file and trace_object: the file is a JSON array at every moment, wherever the
 * kernel cuts a write; an object is JSON whatever its texts are. write(2) of this program
 * is cut and refused by wrapping pwrite. */
#include "unit.h"

#include "help/json.h"
#include "parent/trace/trace_file.h"
#include "parent/trace/trace_object.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the file of a test ---- */

static char path[] = "/tmp/moonfork-trace-file.XXXXXX";
static struct trace_file file;

static char *contents(void) {
  static char *all;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  off_t size = lseek(fd, 0, SEEK_END);
  free(all);
  all = malloc((size_t)size + 2);
  assert_int_equal(pread(fd, all, (size_t)size, 0), size);
  close(fd);
  all[size] = 0;
  assert_int_equal(strlen(all), size); /* no holes */
  return all;
}

/* Or an array whose bracket is on its way to another place. */
static int is_whole(int may_lack_bracket) {
  char *all;
  if (access(path, F_OK) < 0)
    return 1;
  all = contents();
  if (json_is(all))
    return 1;
  strcat(all, "]");
  return may_lack_bracket && json_is(all);
}

static int count_objects(void) {
  int n = 0;
  for (const char *c = contents(); (c = strstr(c, "{\"n\":")); c++)
    n++;
  return n;
}

/* ---- writes that are cut, looked at, and refused ---- */

static int cuts, refuse_after = -1, refuse_with, nwrites, nshort, nlacking;
ssize_t __wrap_pwrite(int fd, const void *data, size_t n, off_t at);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t n, off_t at);

static ssize_t really_write(int fd, const void *data, size_t n, off_t at) {
  return lseek(fd, at, SEEK_SET) < 0 ? -1 : write(fd, data, n);
}

ssize_t __wrap_pwrite(int fd, const void *data, size_t n, off_t at) {
  size_t to_page = TRACE_PAGE - (size_t)at % TRACE_PAGE;
  nwrites++;
  if (refuse_after >= 0 && refuse_after-- == 0) {
    refuse_after = 0;
    errno = refuse_with;
    return -1;
  }
  /* As the kernel does: page by page; it may stop, and the program die, between two. */
  if (cuts && n > to_page) {
    n = to_page;
    nshort++;
  }
  ssize_t r = really_write(fd, data, n, at);
  if (cuts) {
    int lacks = !is_whole(0);
    nlacking += lacks;
    assert_true(is_whole(lacks && n == 1)); /* only where the bracket moves */
  }
  return r;
}

/* Its name where files may be longer than 2 GiB. */
ssize_t __wrap_pwrite64(int fd, const void *data, size_t n, off_t at) {
  return __wrap_pwrite(fd, data, n, at);
}

static int setup(void **state) {
  int fd = mkstemp(path);
  cuts = nwrites = nshort = nlacking = 0;
  refuse_after = -1;
  file.fd = -1;
  close(fd);
  return 0;
}

static int teardown(void **state) {
  trace_file_abandon(&file);
  unlink(path);
  strcpy(path + strlen(path) - 6, "XXXXXX");
  return 0;
}

static int put_object(int i, size_t n) {
  char one[TRACE_OBJECT_MAX + 1];
  int length = snprintf(one, sizeof one, "{\"n\":%d,\"t\":\"", i);
  while (length < (int)n - 2)
    one[length++] = 'x';
  memcpy(one + length, "\"}", 2);
  return trace_file_put(&file, one, (size_t)length + 2);
}

static void an_empty_trace_is_an_empty_array(void **state) {
  assert_int_equal(trace_file_open(&file, path), 0);
  assert_true(json_is(contents()));
  assert_int_equal(trace_file_close(&file), 0);
  assert_true(json_is(contents()));
  assert_int_equal(count_objects(), 0);
}

static void objects_are_in_the_file_after_a_flush(void **state) {
  assert_int_equal(trace_file_open(&file, path), 0);
  assert_int_equal(put_object(1, 40), 0);
  assert_int_equal(count_objects(), 0);
  assert_int_equal(trace_file_flush(&file), 0);
  assert_true(json_is(contents()));
  assert_int_equal(count_objects(), 1);
  assert_int_equal(put_object(2, 40), 0);
  assert_int_equal(put_object(3, TRACE_OBJECT_MAX), 0);
  nwrites = 0;
  assert_int_equal(trace_file_flush(&file), 0);
  assert_int_equal(nwrites, 1);
  assert_int_equal(trace_file_flush(&file), 0);
  assert_int_equal(nwrites, 1);
  assert_true(json_is(contents()));
  assert_int_equal(trace_file_close(&file), 0);
  assert_true(json_is(contents()));
  assert_int_equal(count_objects(), 3);
  assert_null(strstr(contents(), "   ")); /* the blanks are cut off */
}

static void an_object_that_is_too_long_is_refused(void **state) {
  char one[TRACE_OBJECT_MAX + 1] = "{}";
  assert_int_equal(trace_file_open(&file, path), 0);
  assert_int_equal(trace_file_put(&file, one, sizeof one), -EMSGSIZE);
  assert_int_equal(put_object(1, 40), 0);
  assert_int_equal(trace_file_close(&file), 0);
  assert_int_equal(count_objects(), 1);
}

/* Every write is cut at every page, and the file is read after each piece. */
static void the_file_is_whole_wherever_a_write_is_cut(void **state) {
  int n = 0;
  srand(7);
  assert_int_equal(trace_file_open(&file, path), 0);
  cuts = 1;
  while (nlacking < 3) { /* moves of the bracket: the one moment that is excused */
    assert_int_equal(put_object(n++, 20 + (size_t)rand() % (TRACE_OBJECT_MAX - 20)), 0);
    if (rand() % 40 == 0)
      assert_int_equal(trace_file_flush(&file), 0);
  }
  assert_true(nshort > 20);
  cuts = 0;
  assert_int_equal(trace_file_close(&file), 0);
  assert_true(json_is(contents()));
  assert_int_equal(count_objects(), n);
}

/* The n-th write is refused, and all that follow, for every n. */
static void a_full_disk_leaves_a_whole_file(void **state) {
  static const int codes[] = {ENOSPC, EDQUOT, EIO};
  int nlacks = 0; /* refused between the two writes that move the bracket, and for ever */
  for (int k = 0; k < 90; k++) {
    int r = 0, n = 0, written;
    refuse_after = -1;
    assert_int_equal(trace_file_open(&file, path), 0);
    for (; n < 60 && !r; n++)
      r = put_object(n, 700);
    assert_int_equal(r, 0);
    refuse_after = k;
    refuse_with = codes[k % 3];
    while (!r && n < 2000)
      r = put_object(n++, 700);
    refuse_after = -1;
    assert_int_equal(r, -codes[k % 3]);
    nlacks += !is_whole(0);
    assert_true(is_whole(1));
    trace_file_abandon(&file);
    written = count_objects();
    assert_true(written >= 14 && written < n); /* all but a buffer of them */
  }
  assert_true(nlacks <= 1);
}

static void a_limit_of_file_sizes_is_no_signal(void **state) {
  pid_t pid = fork();
  int status;
  if (pid == 0) { /* SIGXFSZ has its default: it would end this process */
    struct rlimit limit = {400 * 1024, 400 * 1024};
    int r = 0;
    signal(SIGXFSZ, SIG_DFL);
    if (trace_file_open(&file, path) < 0 || setrlimit(RLIMIT_FSIZE, &limit) < 0)
      _exit(1);
    for (int i = 0; !r && i < 4000; i++)
      r = put_object(i, 700);
    _exit(r == -EFBIG ? 0 : 2);
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  assert_true(is_whole(0));
  assert_true(count_objects() > 100);
}

static void what_is_no_regular_file_is_refused(void **state) {
  char fifo[64];
  assert_int_equal(trace_file_open(&file, "/tmp"), -EINVAL);
  assert_int_equal(trace_file_open(&file, "/dev/null"), -EINVAL);
  assert_int_equal(trace_file_open(&file, "/no/such/folder/t"), -ENOENT);
  snprintf(fifo, sizeof fifo, "%s.fifo", path);
  assert_int_equal(mkfifo(fifo, 0600), 0);
  assert_int_equal(trace_file_open(&file, fifo), -EINVAL); /* and does not wait */
  unlink(fifo);
}

static void a_file_that_somebody_writes_is_left_alone(void **state) {
  struct trace_file other;
  assert_int_equal(trace_file_open(&other, path), 0);
  assert_int_equal(trace_file_put(&other, "{\"n\":1}", 7), 0);
  assert_int_equal(trace_file_flush(&other), 0);
  assert_int_equal(trace_file_open(&file, path), -EWOULDBLOCK);
  assert_int_equal(count_objects(), 1);
  assert_int_equal(trace_file_close(&other), 0);
  assert_int_equal(trace_file_open(&file, path), 0);
  assert_int_equal(count_objects(), 0);
}

static void a_new_file_is_never_empty(void **state) {
  char name[64];
  unlink(path);
  cuts = 1; /* looks at the file after each write: it is not there, or whole */
  assert_int_equal(trace_file_open(&file, path), 0);
  assert_true(nwrites > 0);
  cuts = 0;
  assert_true(json_is(contents()));
  snprintf(name, sizeof name, "%s.%d~", path, (int)getpid());
  assert_int_equal(access(name, F_OK), -1);
  trace_file_abandon(&file);
  unlink(path);
  refuse_after = 0; /* nothing is left of what could not be begun */
  refuse_with = ENOSPC;
  assert_int_equal(trace_file_open(&file, path), -ENOSPC);
  assert_int_equal(access(path, F_OK), -1);
  assert_int_equal(access(name, F_OK), -1);
}

static void a_refused_file_keeps_what_it_has(void **state) {
  FILE *out = fopen(path, "w");
  fputs("[{\"n\":1}]", out);
  fclose(out);
  refuse_after = 0;
  refuse_with = EIO;
  assert_int_equal(trace_file_open(&file, path), -EIO);
  assert_int_equal(count_objects(), 1);
}

static void a_link_to_nowhere_makes_its_target(void **state) {
  char target[64];
  snprintf(target, sizeof target, "%s.target", path);
  unlink(path);
  assert_int_equal(symlink(target, path), 0);
  assert_int_equal(trace_file_open(&file, path), 0);
  assert_true(json_is(contents()));
  assert_int_equal(access(target, F_OK), 0);
  unlink(target);
}

/* ---- objects ---- */

static const char *made(struct object *o) {
  object_end(o);
  o->text[o->n] = 0;
  return o->text;
}

static void an_object_has_its_members(void **state) {
  struct object o;
  object_begin(&o);
  object_text(&o, "a", "b");
  object_number(&o, "n", -5);
  object_open(&o, "o");
  object_number(&o, "least", INT64_MIN);
  object_number(&o, "most", INT64_MAX);
  object_close(&o);
  object_open(&o, "e");
  object_close(&o);
  assert_string_equal(made(&o),
                      "{\"a\":\"b\",\"n\":-5,\"o\":{\"least\":-9223372036854775808,"
                      "\"most\":9223372036854775807},\"e\":{}}");
}

static void texts_of_any_bytes_become_json(void **state) {
  static const struct {
    const char *in, *out;
  } rows[] = {
      {"", ""},
      {"a\"b\\c/", "a\\\"b\\\\c/"},
      {"\n\t\x1b\x7f", "\\u000a\\u0009\\u001b\\u007f"},
      {"\xc3\xa4\xe2\x82\xac\xf0\x9f\x8c\x99", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x8c\x99"},
      {"a\xff"
       "b",
       "a\xef\xbf\xbd"
       "b"},
      {"\xc3", "\xef\xbf\xbd"}, /* cut short */
      {"\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd"},
      {"\xc0\x80", "\xef\xbf\xbd\xef\xbf\xbd"},                 /* longer than need be */
      {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* a surrogate */
      {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct object o;
    char expected[128];
    object_begin(&o);
    object_text(&o, "t", rows[i].in);
    snprintf(expected, sizeof expected, "{\"t\":\"%s\"}", rows[i].out);
    assert_string_equal(made(&o), expected);
  }
}

static void long_texts_are_cut_between_characters(void **state) {
  struct object o;
  char in[2000];
  for (size_t i = 0; i + 3 < sizeof in; i += 3)
    memcpy(in + i, "\xe2\x82\xac", 4);
  object_begin(&o);
  object_text(&o, "t", in);
  made(&o);
  assert_int_equal(o.n, strlen("{\"t\":\"\"}") + OBJECT_TEXT_MAX / 3 * 3);
  assert_true(json_is(o.text));
}

static void members_without_room_are_left_out(void **state) {
  struct object o;
  char in[300];
  memset(in, '"', sizeof in - 1);
  in[sizeof in - 1] = 0;
  object_begin(&o);
  object_open(&o, "args");
  for (int i = 0; i < 40; i++) {
    object_text(&o, "text", in);
    object_number(&o, "number", INT64_MIN);
  }
  object_close(&o);
  made(&o);
  assert_true(o.n < OBJECT_MAX && o.n > OBJECT_MAX / 2);
  assert_true(json_is(o.text));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(an_empty_trace_is_an_empty_array, setup, teardown),
      cmocka_unit_test_setup_teardown(objects_are_in_the_file_after_a_flush, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(an_object_that_is_too_long_is_refused, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(the_file_is_whole_wherever_a_write_is_cut, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(a_full_disk_leaves_a_whole_file, setup, teardown),
      cmocka_unit_test_setup_teardown(a_limit_of_file_sizes_is_no_signal, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(what_is_no_regular_file_is_refused, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(a_file_that_somebody_writes_is_left_alone, setup,
                                      teardown),
      cmocka_unit_test_setup_teardown(a_new_file_is_never_empty, setup, teardown),
      cmocka_unit_test_setup_teardown(a_refused_file_keeps_what_it_has, setup, teardown),
      cmocka_unit_test_setup_teardown(a_link_to_nowhere_makes_its_target, setup,
                                      teardown),
      cmocka_unit_test(an_object_has_its_members),
      cmocka_unit_test(texts_of_any_bytes_become_json),
      cmocka_unit_test(long_texts_are_cut_between_characters),
      cmocka_unit_test(members_without_room_are_left_out),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
