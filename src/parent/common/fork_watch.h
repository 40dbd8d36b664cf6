/* Forks of this process that are not the library's: in the copy nothing of what is kept
 * in memory is the copy's own. Whoever has descriptors, threads or locks that a copy must
 * not go on with has a hook here. Runs in the parent, on any thread. */
#ifndef PARENT_COMMON_FORK_WATCH_H
#define PARENT_COMMON_FORK_WATCH_H

struct fork_hook {
  void (*in_copy)(void); /* only what is safe after the fork of a threaded process */
  struct fork_hook *next;
  int known;
};

/* Counts the forks that lie between the first process and this one. */
unsigned fork_generation(void);
/* From now on the hook, which lives for ever, is called. Again is harmless, and cheap. */
void fork_watch(struct fork_hook *hook);

#endif
