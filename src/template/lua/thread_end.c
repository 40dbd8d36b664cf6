#include "template/lua/thread_end.h"

#include "os/interrupt.h"
#include "os/sigchain.h"
#include "wire/life.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>

static _Thread_local struct {
  int number; /* 0: no clone */
  volatile sig_atomic_t holds;
  volatile sig_atomic_t wanted;
  lua_State *volatile running;
  void (*leave)(void);
} self;

static void look(void) {
  if (self.wanted)
    self.leave();
}

static void hook(lua_State *L, lua_Debug *ar) {
  (void)L, (void)ar;
  look();
}

static void arm(lua_State *L) {
  lua_sethook(L, hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

static void on_signal(int signum, siginfo_t *info, void *context);

/* C modules may handle that signal: it is for what comes out of band on sockets. */
static struct sigchain chain = {.signum = THREAD_END_SIGNAL, .handler = on_signal};

/* A late one may be for a clone that has ended, whose thread's number this one has. Those
 * that were queued are nobody else's: a module would take them for its own. */
static void on_signal(int signum, siginfo_t *info, void *context) {
  int error = errno;
  (void)signum;
  if (info->si_code != SI_QUEUE) {
    sigchain_pass(&chain, info, context);
  } else if (self.number && info->si_value.sival_int == self.number) {
    self.wanted = 1;
    if (self.running && !self.holds)
      arm(self.running);
  }
  errno = error;
}

void thread_end_hold(void) {
  self.holds = 1;
}

void thread_end_let(void) {
  self.holds = 0;
  if (self.wanted && self.running)
    arm(self.running);
}

int thread_end_has_handler(const struct sigaction *action) {
  return sigchain_is_alone(&chain, action);
}

void thread_end_prepare(void) {
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  sigset_t end;
  pthread_mutex_lock(&lock);
  (void)sigchain_install(&chain);
  pthread_mutex_unlock(&lock);
  sigemptyset(&end);
  sigaddset(&end, THREAD_END_SIGNAL);
  pthread_sigmask(SIG_UNBLOCK, &end, NULL);
}

void thread_end_begin(lua_State *L, int number, void (*leave)(void)) {
  self.running = L;
  self.leave = leave;
  self.number = number;
  interrupt_hook = look;
}

void thread_end_now(void) {
  self.wanted = 1;
  look();
}

void thread_end_over(void) {
  interrupt_hook = NULL;
  self.number = 0;
  self.running = NULL;
}

int thread_end_interrupt(lua_State *L) {
  (void)L;
  if (interrupt_hook)
    interrupt_hook();
  return 0;
}

int thread_end_running(lua_State *L) {
  if (!self.number)
    return 0;
  self.running = L;
  if (self.wanted)
    arm(L);
  return 1;
}

int thread_end_is_clone(void) {
  return self.number != 0;
}
