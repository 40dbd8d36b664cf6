/* A host in C whose processes are behind a command (mf_remote), here `sh -c`, which leads
 * to the agent of this build: what works as with mf_new_exec, what is refused, and that
 * nothing is left when all is closed. Real processes. */
#include "unit.h"

#include "os/thread.h"
#include <fcntl.h>
#include <moonfork.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

static uv_loop_t loop;
static int nthreads;

int __real_thread_start(pthread_t *ret, size_t stack, void *(*f)(void *), void *arg);
int __wrap_thread_start(pthread_t *ret, size_t stack, void *(*f)(void *), void *arg);

int __wrap_thread_start(pthread_t *ret, size_t stack, void *(*f)(void *), void *arg) {
  nthreads++;
  return __real_thread_start(ret, stack, f, arg);
}

/* A story that hangs ends with its alarm. */
static int setup(void **state) {
  alarm(60);
  return uv_loop_init(&loop);
}

/* All handles are closed, and no child is left: the near end has ended, too. */
static int teardown(void **state) {
  int status;
  uv_run(&loop, UV_RUN_DEFAULT);
  assert_int_equal(uv_loop_close(&loop), 0);
  while (waitpid(-1, &status, 0) > 0)
    ;
  assert_int_equal(errno, ECHILD);
  return 0;
}

static mf_process *behind(const char *script, const char *image) {
  const char *command[] = {"sh", "-c", script, NULL};
  mf_options o = MF_OPTIONS_INIT;
  mf_process *p = NULL;
  o.loop = &loop;
  o.command = command;
  o.image = image;
  o.stdio[2].kind = MF_STDIO_NULL;
  assert_int_equal(mf_remote(&o, &p), 0);
  return p;
}

static mf_process *agent_in(const char *folder, const char *image) {
  static char script[2048];
  const char *remote = getenv("MOONFORK_REMOTE"), *template = getenv("MOONFORK_TEMPLATE");
  assert_true(remote && template);
  snprintf(script, sizeof script, "cd '%s' && exec '%s' agent '%s'", folder, remote,
           template);
  return behind(script, image);
}

static mf_process *agent(void) {
  return agent_in(".", NULL);
}

static void eval(mf_process *p, const char *code) {
  assert_int_equal(mf_eval(p, code, strlen(code), 0, NULL, NULL), 0);
}

struct told {
  int done, code, started, socket;
  char text[512];
};

static void note(struct told *t, const mf_error *e) {
  t->done++;
  t->code = e ? e->code : 0;
  t->started = e ? e->started : 0;
  snprintf(t->text, sizeof t->text, "%s", e ? e->message : "");
}

static void on_run(mf_process *p, const mf_error *e, int socket, void *data) {
  struct told *t = data;
  note(t, e);
  t->socket = socket;
}

static void on_exit_known(mf_process *p, const mf_exit *e, void *data) {
  struct told *t = data;
  t->done++;
  t->code = !e->known ? -1 : e->signal ? 1000 + e->signal : e->code;
  snprintf(t->text, sizeof t->text, "%s", e->error ? e->error : "");
}

static void until(const int *done, int count) {
  while (*done < count)
    assert_true(uv_run(&loop, UV_RUN_ONCE) || *done >= count);
}

/* All bytes up to the end of the stream. */
static size_t read_all(int fd, char *text, size_t size) {
  size_t n = 0;
  for (;;) {
    struct pollfd p = {fd, POLLIN, 0};
    assert_int_equal(poll(&p, 1, 30000), 1);
    ssize_t got = read(fd, text + n, size - 1 - n);
    if (got < 0 && errno == EAGAIN)
      continue;
    if (got <= 0)
      break;
    n += (size_t)got;
  }
  text[n] = 0;
  close(fd);
  return n;
}

static void test_fork_run_handles_and_status(void **state) {
  mf_process *p = agent(), *clone;
  struct told run = {0}, end = {0};
  char text[256];
  int ends[2];
  eval(p,
       "function f(s, a, h, b) s:write(a, '-', b, ' ', h:read 'a') error 'at last' end");
  assert_int_equal(pipe(ends), 0);
  assert_int_equal(mf_send_arg(p, "a\0b", 3), 0);
  assert_int_equal(mf_fork(p, &clone), 0);
  assert_int_equal(mf_send_fd(clone, ends[0]), 0);
  assert_int_equal(mf_send_arg(clone, "c", 1), 0);
  assert_int_equal(mf_on_exit(clone, on_exit_known, &end), 0);
  assert_int_equal(mf_run(clone, "f", on_run, &run), 0);
  until(&run.done, 1);
  assert_int_equal(run.code, 0);
  assert_true(mf_pid(clone) > 0 && mf_pid(p) > 0 && mf_pid(clone) != mf_pid(p));
  assert_int_equal(write(ends[1], "by a pipe", 9), 9);
  close(ends[0]);
  close(ends[1]);
  assert_int_equal(read_all(run.socket, text, sizeof text), 15);
  assert_memory_equal(text, "a\0b-c by a pipe", 15);
  until(&end.done, 1);
  assert_int_equal(end.code, 1);
  assert_non_null(strstr(end.text, "at last"));
  mf_close(clone, NULL, NULL);
  mf_close(p, NULL, NULL);
}

static void on_reply(const mf_error *e, const mf_message *m, void *data) {
  struct told *t = data;
  note(t, e);
  if (m)
    snprintf(t->text, sizeof t->text, "%.*s", (int)m->length, (const char *)m->data);
}

static void test_calls_and_kill(void **state) {
  mf_process *p = agent(), *clone, *spinning;
  mf_rpc_options o = MF_RPC_OPTIONS_INIT;
  mf_message m = {"twice", 5, NULL, 0};
  struct told reply = {0}, late = {0}, run = {0}, end = {0};
  mf_rpc *rpc;
  eval(p, "function echo(s) if s == 'die' then os.exit(7) end return s .. s end\n"
          "function spin(s) while true do end end");
  assert_int_equal(mf_fork(p, &clone), 0);
  assert_int_equal(mf_rpc_new(clone, "echo", &o, &rpc), 0);
  assert_int_equal(mf_rpc_call(rpc, &m, NULL, on_reply, &reply, NULL), 0);
  until(&reply.done, 1);
  assert_int_equal(reply.code, 0);
  assert_string_equal(reply.text, "twicetwice");
  m = (mf_message){"die", 3, NULL, 0};
  assert_int_equal(mf_rpc_call(rpc, &m, NULL, on_reply, &late, NULL), 0);
  until(&late.done, 1);
  assert_int_equal(late.code, MF_ECLONE_DIED);
  assert_int_equal(late.started, MF_STARTED_UNKNOWN);
  assert_non_null(strstr(late.text, "exit status 7"));
  mf_rpc_close(rpc, NULL, NULL);
  assert_int_equal(mf_fork(p, &spinning), 0);
  mf_on_exit(spinning, on_exit_known, &end);
  assert_int_equal(mf_run(spinning, "spin", on_run, &run), 0);
  until(&run.done, 1);
  assert_int_equal(run.code, 0);
  assert_int_equal(mf_kill(spinning, SIGKILL), 0);
  until(&end.done, 1);
  assert_int_equal(end.code, 1000 + SIGKILL);
  close(run.socket);
  mf_close(spinning, NULL, NULL);
  mf_close(p, NULL, NULL);
}

static void test_what_can_not_travel_is_refused(void **state) {
  const char *command[] = {"sh", "-c", "exit 0", NULL};
  mf_process *p = agent(), *clone, *none = NULL;
  struct told run = {0};
  mf_options o = MF_OPTIONS_INIT;
  int file = open("/proc/self/stat", O_RDONLY);
  assert_true(file >= 0);
  assert_int_equal(mf_fork(p, &clone), 0);
  assert_int_equal(mf_send_fd(clone, file), MF_EUNSUPPORTED);
  assert_int_equal(mf_send_fd(clone, 100000), MF_EINVAL);
  assert_int_equal(mf_to_fd(clone, on_run, &run), MF_EUNSUPPORTED);
  o.stdio[1] = (mf_stdio){MF_STDIO_FD, file};
  assert_int_equal(mf_fork_options(p, &o, &none), MF_EUNSUPPORTED);
  o.loop = &loop;
  o.command = command;
  assert_int_equal(mf_remote(&o, &none), MF_EUNSUPPORTED);
  o = (mf_options)MF_OPTIONS_INIT;
  o.loop = &loop;
  assert_int_equal(mf_remote(&o, &none), MF_EINVAL); /* no command */
  o.command = command;
  o.program = "/bin/true";
  assert_int_equal(mf_remote(&o, &none), MF_EINVAL);
  assert_null(none);
  close(file);
  eval(clone, "function f() end"); /* a refusal has changed nothing */
  assert_int_equal(mf_run(clone, "f", on_run, &run), 0);
  until(&run.done, 1);
  assert_int_equal(run.code, 0);
  close(run.socket);
  mf_close(clone, NULL, NULL);
  mf_close(p, NULL, NULL);
}

static void test_a_command_that_leads_nowhere(void **state) {
  mf_process *p = behind("echo 'Permission denied' >&2; exit 255", NULL), *clone;
  struct told run = {0}, end = {0};
  assert_int_equal(mf_fork(p, &clone), 0);
  mf_on_exit(p, on_exit_known, &end);
  assert_int_equal(mf_run(clone, "f", on_run, &run), 0);
  until(&run.done, 1);
  assert_int_equal(run.code, MF_ETEMPLATE_START);
  assert_int_equal(run.started, MF_STARTED_NO);
  assert_non_null(strstr(run.text, "exit status 255"));
  assert_non_null(strstr(run.text, "Permission denied"));
  until(&end.done, 1);
  assert_int_equal(end.code, -1);
  mf_close(clone, NULL, NULL);
  mf_close(p, NULL, NULL);
}

static void on_saved(mf_process *p, const mf_error *e, void *data) {
  note(data, e);
}

static struct told run_in(mf_process *p, const char *function) {
  struct told run = {0};
  assert_int_equal(mf_run(p, function, on_run, &run), 0);
  until(&run.done, 1);
  return run;
}

/* The agent has another directory than this program. */
static void test_an_image_over_there(void **state) {
  char folder[] = "/tmp/moonfork-XXXXXX", path[64], text[16];
  assert_non_null(mkdtemp(folder));
  snprintf(path, sizeof path, "%s/image", folder);
  mf_process *p = agent_in(folder, NULL);
  struct told saved = {0}, run;
  eval(p, "word = 'of it' function f(s) s:write(word) end");
  assert_int_equal(mf_save(p, "image", on_saved, &saved), 0);
  until(&saved.done, 1);
  mf_close(p, NULL, NULL);
  if (saved.code == MF_EUNSUPPORTED) {
    print_message("images are not possible here: %s\n", saved.text);
    rmdir(folder);
    return;
  }
  assert_int_equal(saved.code, 0);
  p = agent_in(folder, "image");
  run = run_in(p, "f");
  assert_int_equal(run.code, 0);
  assert_int_equal(read_all(run.socket, text, sizeof text), 5);
  assert_string_equal(text, "of it");
  mf_close(p, NULL, NULL);
  assert_int_equal(truncate(path, 20000), 0);
  p = agent_in(folder, "image");
  run = run_in(p, "f");
  assert_int_equal(run.code, MF_EINVAL);
  assert_int_equal(run.started, MF_STARTED_NO);
  assert_non_null(strstr(run.text, "cut off"));
  mf_close(p, NULL, NULL);
  unlink(path);
  p = agent_in(folder, "image");
  run = run_in(p, "f");
  assert_int_equal(run.code, MF_EINVAL);
  assert_non_null(strstr(run.text, "image can't be used: No such file"));
  mf_close(p, NULL, NULL);
  assert_int_equal(rmdir(folder), 0);
}

/* A thread closed the program's copy of the near end's socket, some time after the call: it
 * was still there when the far template had answered. */
static void test_all_is_closed_when_the_call_returns(void **state) {
  nthreads = 0;
  mf_process *p = agent();
  assert_int_equal(nthreads, 0);
  mf_close(p, NULL, NULL);
}

static void count_handle(uv_handle_t *handle, void *n) {
  ++*(int *)n;
}

/* The loop kept the handles that had been made for a process that then was none, for ever
 * if no other came. */
static void test_a_refusal_leaves_nothing_on_the_loop(void **state) {
  const char *command[] = {"sh", "-c", "exit 0", NULL};
  int file = open("/proc/self/stat", O_RDONLY);
  assert_true(file >= 0);
  for (int way = 0; way < 3; way++) {
    mf_process *none = NULL;
    mf_options o = MF_OPTIONS_INIT;
    int handles = 0;
    o.loop = &loop;
    o.command = way == 0 ? NULL : command;
    o.program = way == 1 ? "/bin/true" : NULL;
    if (way == 2)
      o.stdio[1] = (mf_stdio){MF_STDIO_FD, file};
    assert_int_equal(mf_remote(&o, &none), way == 2 ? MF_EUNSUPPORTED : MF_EINVAL);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_walk(&loop, count_handle, &handles);
    assert_int_equal(handles, 0);
  }
  close(file);
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
  const struct CMUnitTest tests[] = {
      T(test_fork_run_handles_and_status),
      T(test_calls_and_kill),
      T(test_what_can_not_travel_is_refused),
      T(test_a_command_that_leads_nowhere),
      T(test_an_image_over_there),
      T(test_all_is_closed_when_the_call_returns),
      T(test_a_refusal_leaves_nothing_on_the_loop),
  };
  return cmocka_run_group_tests_name("remote_host", tests, NULL, NULL);
}
