/* What a thread does when a signal has interrupted a system call of ours in which it may
 * sleep: leave, where somebody wants its end (template/thread/thread_end.c). It may not
 * come back. Runs in every process. */
#ifndef OS_INTERRUPT_H
#define OS_INTERRUPT_H

extern _Thread_local void (*interrupt_hook)(void); /* NULL: nothing */

static inline void interrupt_seen(void) {
  if (interrupt_hook)
    interrupt_hook();
}

#endif
