#include "os/thread.h"

#include <signal.h>

int thread_start(pthread_t *ret, size_t stack_size, void *(*body)(void *), void *arg) {
  sigset_t all, before;
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, stack_size);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(ret, &attr, body, arg);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attr);
  return -error;
}
