/* What a thread does when a signal has interrupted a system call of ours in which it may
 * sleep: leave, where somebody wants its end (template/thread/thread_end.c). It may not
 * come back. Runs in every process. */
#ifndef OS_INTERRUPT_H
#define OS_INTERRUPT_H

extern _Thread_local void (*interrupt_hook)(void); /* NULL: nothing */
/* In a module that has this code once more: calls whoever may want the thread's end. It
 * finds them by this key in the registry of its interpreter: a lua_CFunction that needs
 * no state. */
extern void (*interrupt_elsewhere)(void);
#define INTERRUPT_KEY "moonfork.interrupt"

static inline void interrupt_seen(void) {
  if (interrupt_hook)
    interrupt_hook();
  else if (interrupt_elsewhere)
    interrupt_elsewhere();
}

#endif
