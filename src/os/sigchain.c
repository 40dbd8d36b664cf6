#include "os/sigchain.h"

#include <errno.h>
#include <string.h>

static int is_ours(const struct sigchain *c, const struct sigaction *action) {
  return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == c->handler;
}

static int has_handler(const struct sigaction *action) {
  return (action->sa_flags & SA_SIGINFO) ||
         (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN);
}

int sigchain_install(struct sigchain *c) {
  struct sigaction now, a;
  if (sigaction(c->signum, NULL, &now) < 0)
    return -errno;
  if (is_ours(c, &now))
    return 0;
  memset(&a, 0, sizeof a);
  a.sa_sigaction = c->handler;
  a.sa_flags = SA_SIGINFO;
  sigemptyset(&a.sa_mask);
  if (has_handler(&now)) { /* as it asked for; SA_RESTART would keep us from waiters */
    a.sa_mask = now.sa_mask;
    a.sa_flags |= now.sa_flags & SA_ONSTACK;
  }
  c->next = now;
  return sigaction(c->signum, &a, NULL) < 0 ? -errno : 0;
}

void sigchain_pass(const struct sigchain *c, siginfo_t *info, void *context) {
  static _Thread_local volatile sig_atomic_t passes; /* the next one may pass it to us */
  if (passes || !has_handler(&c->next))
    return;
  passes = 1;
  if (c->next.sa_flags & SA_SIGINFO)
    c->next.sa_sigaction(c->signum, info, context);
  else
    c->next.sa_handler(c->signum);
  passes = 0;
}

int sigchain_is_alone(const struct sigchain *c, const struct sigaction *action) {
  return is_ours(c, action) && !has_handler(&c->next);
}
