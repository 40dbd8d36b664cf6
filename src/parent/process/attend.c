/* A call that waits for one process: it polls the socket by itself, and asks for the end
 * when it wants to know. So a process that ends soon is never watched by the loop, which
 * would take a pidfd and seven more system calls. Runs in the parent. */
#include "parent/process/internal.h"

#include "parent/private.h"
#include "parent/trace/trace.h"

static void attend(struct mf_process *p, int on) {
  if (p->attended == (unsigned)on || p->is_thread)
    return; /* the life of a thread is the loop's */
  p->attended = (unsigned)on;
  channel_attend(&p->chan, on);
  if (p->is_early && p->far)
    far_fork_attend(p->far, &p->far_fork, on);
  if (on || p->state == DEAD)
    return;
  if (p->pid > 0)
    process_settle(p); /* it may have ended already */
  process_open_pidfd(p);
}

void mf_attend(mf_process *p, int on) {
  if (!process_check(p))
    attend(p, on);
}

int mf_attended_fd(const mf_process *p) {
  if (!p->attended)
    return -1;
  if (p->is_early && p->far && p->far_fork.token)
    return far_fork_attended_fd(p->far, &p->far_fork);
  return channel_attended_fd(&p->chan);
}

void mf_look(mf_process *p) {
  struct context *ctx = p->context;
  context_enter(ctx);
  if (p->is_early && p->far && p->far_fork.token) {
    far_link_look(p->far);
  } else if (channel_attended_fd(&p->chan) >= 0) {
    channel_ready(&p->chan, WATCH_READ);
    process_try_detach(p);
  } else {
    process_settle(p);
  }
  if (p->eof) /* the kernel will tell when it ends */
    attend(p, 0);
  context_leave(ctx);
  trace_rest();
}
