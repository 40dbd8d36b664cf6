#include "template/lua/thread_end.h"

#include "os/interrupt.h"
#include "wire/life.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

static _Thread_local struct {
  int number; /* 0: no clone */
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

/* A late one may be for a clone that has ended, whose thread's number this one has. */
static void on_signal(int signum, siginfo_t *info, void *context) {
  int error = errno;
  (void)signum, (void)context;
  if (self.number && info->si_code == SI_QUEUE &&
      info->si_value.sival_int == self.number) {
    self.wanted = 1;
    if (self.running)
      arm(self.running);
  }
  errno = error;
}

static void install(void) {
  struct sigaction a;
  memset(&a, 0, sizeof a);
  a.sa_sigaction = on_signal;
  a.sa_flags = SA_SIGINFO;
  sigaction(THREAD_END_SIGNAL, &a, NULL);
}

int thread_end_has_handler(const struct sigaction *action) {
  return (action->sa_flags & SA_SIGINFO) && action->sa_sigaction == on_signal;
}

void thread_end_prepare(void) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  sigset_t end;
  pthread_once(&once, install);
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
