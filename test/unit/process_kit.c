/* Templates and clones of a story on a world without a kernel. */
#include "process_kit.h"

#include "help/hello.h"

int short_of_memory; /* for what is put by malloc(3), as frames are */

void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);

void *__wrap_malloc(size_t n) {
  return short_of_memory ? NULL : __real_malloc(n);
}

void on_exit_told(mf_process *p, const mf_exit *status, void *data) {
  struct story *s = data;
  s->exits++;
  s->exit_known = status->known;
  s->exit_code = status->code;
  s->exit_error = status->error != NULL;
}

void on_memory(mf_process *p, const mf_error *e, const mf_memory_info *info, void *data) {
  struct story *s = data;
  s->memories++;
  s->memory_error = e ? e->code : 0;
}

void on_run(mf_process *p, const mf_error *e, int fd, void *data) {
  struct story *s = data;
  s->runs++;
  s->run_error = e ? e->code : 0;
  s->run_started = e ? e->started : -1;
  if (fd >= 0)
    s->sim->backend.ops->close(&s->sim->backend, &fd);
}

void on_close(mf_process *p, void *data) {
  struct story *s = data;
  s->closes++;
}

struct story *story_new(void) {
  struct story *s = calloc(1, sizeof *s);
  s->sim = sim_new();
  children_forked(); /* what an earlier story left is no child of this one */
  s->context = registry_new_on(&s->sim->backend);
  assert_int_equal(context_start(s->context), 0);
  return s;
}

void story_free(struct story *s) {
  assert_int_equal(s->context->nopen, 0);
  for (int pid = 100; pid < s->sim->next_pid; pid++)
    sim_end_process(s->sim, pid, 0);
  for (int i = 0; i < 4; i++)
    sim_advance(s->sim, 3000);
  assert_int_equal(s->sim->started, 0);
  default_close(s->context);
  sim_run(s->sim);
  assert_true(s->sim->stopped);
  assert_int_equal(sim_free(s->sim), 0);
  free(s);
}

void answer_hello(struct story *s, int far, uint64_t pid) {
  unsigned char body[HELLO_ROOM];
  sim_answer(s->sim, far, ANS_HELLO, pid, body, hello_body(body, 0));
}

mf_process *make_template(struct story *s, int *ret_far) {
  mf_process *t;
  assert_int_equal(boot_exec(s->context, NULL, &t), 0);
  *ret_far = s->sim->spawned_control;
  answer_hello(s, *ret_far, (uint64_t)t->pid);
  sim_run(s->sim);
  assert_int_equal(t->state, SERVING);
  return t;
}

void execute_fork(struct story *s, mf_process *t, int far, mf_process *q, int pid,
                  int sibling) {
  static struct frame f;
  int fds[SIM_QUEUE], q_far = sim_far_end(s->sim, q->chan.fd), found = 0;
  while (sim_command(s->sim, far, &f, fds)) {
    if (f.type != CMD_FORK)
      continue;
    found = 1;
    if (sibling)
      assert_int_equal(sim_fork(s->sim, far, &f, fds, pid), 1);
    else
      s->sim->fd[q_far].pid = pid;
  }
  assert_true(found);
  if (q->expects_hello || !sibling)
    answer_hello(s, q_far, (uint64_t)pid);
}

mf_process *make_running(struct story *s, mf_process *t, int far, int pid) {
  mf_process *q;
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  execute_fork(s, t, far, q, pid, 1);
  sim_answer(s->sim, sim_far_end(s->sim, q->chan.fd), ANS_RUNNING, (uint64_t)pid, NULL,
             0);
  sim_run(s->sim);
  assert_int_equal(q->state, RUNNING);
  assert_int_equal(q->pid, pid);
  return q;
}

void answer_failure(struct story *s, int far, unsigned code, unsigned phase) {
  struct buf b;
  buf_init(&b, 1000);
  buf_put_u8(&b, code);
  buf_put_u8(&b, phase);
  buf_put_u16(&b, 0);
  buf_put_u32(&b, 0);
  buf_put_str(&b, "no luck", 7);
  buf_put_str(&b, NULL, 0);
  sim_answer(s->sim, far, ANS_FAILED, 2, buf_peek(&b), buf_size(&b));
  buf_deinit(&b);
}

void close_both(mf_process *a, mf_process *b) {
  mf_close(a, NULL, NULL);
  mf_close(b, NULL, NULL);
}

void wait_for_status(struct story *s) {
  for (int i = 0; i < 40; i++)
    sim_advance(s->sim, 10);
}

mf_process *ask_for_a_function(struct story *s, mf_process *t) {
  mf_process *q;
  assert_int_equal(mf_fork(t, &q), 0);
  assert_int_equal(mf_on_exit(q, on_exit_told, s), 0);
  assert_int_equal(mf_run(q, "f", on_run, s), 0);
  return q;
}
