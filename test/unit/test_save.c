/* Images from C: mf_save, and the option image of mf_new_exec, with real processes. */
#include "unit.h"

#include <moonfork.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

static uv_loop_t loop;
static char folder[] = "/tmp/moonfork-save-XXXXXX", path[300], other[300];

struct told {
  int times, code, fd, os_error;
  char message[600];
};

static void note(struct told *t, const mf_error *e) {
  t->times++;
  t->code = e ? e->code : 0;
  t->os_error = e ? e->os_error : 0;
  snprintf(t->message, sizeof t->message, "%s", e ? e->message : "");
}

static void on_told(mf_process *p, const mf_error *e, void *data) {
  (void)p;
  note(data, e);
}

static void on_run(mf_process *p, const mf_error *e, int fd, void *data) {
  (void)p;
  struct told *t = data;
  note(t, e);
  t->fd = fd;
}

static void wait_for(const struct told *t) {
  while (t->times == 0)
    uv_run(&loop, UV_RUN_ONCE);
}

static mf_process *process(const char *image, int verify) {
  mf_options o;
  mf_process *p;
  mf_options_init(&o);
  o.loop = &loop;
  o.image = image;
  o.image_verify = verify;
  assert_int_equal(mf_new_exec(&o, &p), 0);
  return p;
}

static void eval(mf_process *p, const char *code) {
  assert_int_equal(mf_eval(p, code, strlen(code), 0, NULL, NULL), 0);
}

static struct told save(mf_process *p, const char *file) {
  struct told t = {0};
  assert_int_equal(mf_save(p, file, on_told, &t), 0);
  assert_int_equal(t.times, 0); /* never before it returns */
  wait_for(&t);
  assert_int_equal(t.times, 1);
  return t;
}

/* What `answer` of a clone writes, or the error. */
static struct told answer(mf_process *p, char text[100]) {
  struct told t = {.fd = -1};
  mf_process *q;
  ssize_t n;
  text[0] = '\0';
  assert_int_equal(mf_fork(p, &q), 0);
  assert_int_equal(mf_run(q, "answer", on_run, &t), 0);
  wait_for(&t);
  if (t.code == 0) {
    do
      n = read(t.fd, text, 99);
    while (n < 0 && (errno == EINTR || errno == EAGAIN));
    text[n > 0 ? n : 0] = '\0';
    close(t.fd);
  }
  mf_close(q, NULL, NULL);
  return t;
}

static int set_up(void **state) {
  (void)state;
  strcpy(folder + sizeof folder - 7, "XXXXXX");
  assert_non_null(mkdtemp(folder));
  snprintf(path, sizeof path, "%s/image", folder);
  snprintf(other, sizeof other, "%s/other", folder);
  return uv_loop_init(&loop);
}

static int tear_down(void **state) {
  (void)state;
  char command[320];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  uv_run(&loop, UV_RUN_DEFAULT);
  return uv_loop_close(&loop) || system(command);
}

static int is_possible(const struct told *t) {
  if (t->code != MF_EUNSUPPORTED)
    return 1;
  print_message("images are not possible here: %s\n", t->message);
  return 0;
}

static const char CODE[] = "x = 40 function answer(s) x = x + 2 s:write(x) end";

/* What the function writes, and the end of it. */
static struct told words(mf_process *p, const char *function, char text[100]) {
  struct told t = {.fd = -1};
  struct pollfd pfd = {.events = POLLIN};
  size_t n = 0;
  ssize_t r = 1;
  assert_int_equal(mf_run(p, function, on_run, &t), 0);
  wait_for(&t);
  pfd.fd = t.fd;
  while (t.code == 0 && r != 0) {
    assert_true(poll(&pfd, 1, 10000) > 0 || errno == EINTR);
    r = read(t.fd, text + n, 99 - n);
    n += r > 0 ? (size_t)r : 0;
  }
  text[n] = '\0';
  if (t.code == 0)
    close(t.fd);
  return t;
}

static const char SLEEPER[] =
    "function sleeper(s, file)\n"
    "  local how, other, word = require 'moonfork.clone'.hibernate(file)\n"
    "  s = how and other or s\n"
    "  s:write(tostring(how), ' ', tostring(word))\n"
    "end";

static void test_a_function_goes_on_by_run_without_a_name(void **state) {
  char text[100];
  mf_process *p = process(NULL, 0);
  struct told t = {0};
  (void)state;
  assert_int_equal(mf_run(p, NULL, on_run, &t), MF_EINVAL);
  assert_int_equal(mf_run(p, "", on_run, &t), MF_EINVAL);
  eval(p, SLEEPER);
  assert_int_equal(mf_send_arg(p, path, strlen(path)), 0);
  t = words(p, "sleeper", text);
  assert_int_equal(t.code, 0);
  mf_close(p, NULL, NULL);
  if (access(path, F_OK) < 0) {
    assert_string_equal(text, "nil nil"); /* UNSUPPORTED */
    return;
  }
  assert_string_equal(text, "saved nil");
  for (int forked = 0; forked < 2; forked++) {
    mf_process *q = NULL;
    p = process(path, 1);
    if (forked)
      assert_int_equal(mf_fork(p, &q), 0);
    assert_int_equal(mf_send_arg(q ? q : p, "on", 2), 0);
    t = words(q ? q : p, NULL, text);
    assert_int_equal(t.code, 0);
    assert_string_equal(text, "loaded on");
    if (q)
      mf_close(q, NULL, NULL);
    mf_close(p, NULL, NULL);
  }
}

static void test_what_was_saved_is_loaded(void **state) {
  char text[100];
  struct stat st;
  mf_process *p = process(NULL, 0), *q;
  (void)state;
  eval(p, CODE);
  struct told t = save(p, path);
  if (is_possible(&t)) {
    assert_int_equal(t.code, 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(answer(p, text).code, 0); /* it goes on */
    assert_string_equal(text, "42");
    for (int verify = 0; verify < 2; verify++) {
      q = process(path, verify);
      assert_int_equal(answer(q, text).code, 0);
      assert_string_equal(text, "42");
      assert_int_equal(save(q, other).code, 0); /* what was loaded is saved */
      mf_close(q, NULL, NULL);
    }
    q = process(other, 0);
    eval(q, "x = 1");
    assert_int_equal(answer(q, text).code, 0);
    assert_string_equal(text, "3");
    mf_close(q, NULL, NULL);
  }
  mf_close(p, NULL, NULL);
}

static void test_what_fails_says_why_and_the_process_goes_on(void **state) {
  char text[100];
  mf_process *p = process(NULL, 0), *q;
  (void)state;
  eval(p, CODE);
  struct told t = save(p, "/no/such/folder/image");
  if (is_possible(&t)) {
    assert_int_equal(t.code, MF_EINVAL);
    assert_non_null(strstr(t.message, "/no/such/folder/image: No such file"));
    assert_int_equal(t.os_error, ENOENT);
    t = save(p, folder);
    assert_int_equal(t.code, MF_EINVAL);
    assert_int_equal(t.os_error, EISDIR);
    t = save(p, "/dev/null");
    assert_int_equal(t.code, MF_EINVAL);
    assert_int_equal(t.os_error, EEXIST);
    eval(p, "kept = {io.open('/dev/null')}");
    t = save(p, path);
    assert_int_equal(t.code, MF_EINVAL);
    assert_int_equal(t.os_error, 0);
    assert_non_null(strstr(t.message, "userdata of type 'FILE*' (kept[1])"));
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(answer(p, text).code, 0);
    assert_string_equal(text, "42");
    q = process("/no/such/image", 0);
    t = answer(q, text);
    assert_int_equal(t.code, MF_EINVAL);
    assert_non_null(strstr(t.message, "/no/such/image"));
    mf_close(q, NULL, NULL);
    q = process("/dev/null", 1);
    t = answer(q, text);
    assert_int_equal(t.code, MF_EINVAL);
    assert_non_null(strstr(t.message, "it is no file"));
    mf_close(q, NULL, NULL);
  }
  mf_close(p, NULL, NULL);
}

static void test_misuse_and_the_end_before_the_answer(void **state) {
  struct told t = {0};
  mf_process *p = process(NULL, 0);
  (void)state;
  assert_int_equal(mf_save(p, NULL, on_told, &t), MF_EINVAL);
  assert_int_equal(mf_save(p, "", on_told, &t), MF_EINVAL);
  assert_int_equal(mf_save(p, path, NULL, NULL), MF_EINVAL);
  assert_int_equal(t.times, 0);
  assert_int_equal(mf_save(p, other, on_told, &t), 0);
  mf_close(p, NULL, NULL);
  wait_for(&t);
  assert_int_equal(t.times, 1);
  assert_int_equal(t.code, MF_ECANCELLED);
  uv_run(&loop, UV_RUN_DEFAULT);
  assert_int_equal(t.times, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_a_function_goes_on_by_run_without_a_name,
                                      set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_what_was_saved_is_loaded, set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_what_fails_says_why_and_the_process_goes_on,
                                      set_up, tear_down),
      cmocka_unit_test_setup_teardown(test_misuse_and_the_end_before_the_answer, set_up,
                                      tear_down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
