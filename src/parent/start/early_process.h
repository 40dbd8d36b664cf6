/* The early process (mf_adopt_early): a copy of this program that was made before there
 * were threads, and waits to be somebody's template. There is one for all loops, and the
 * first that asks gets it. Runs in the parent, on any thread. */
#ifndef PARENT_START_EARLY_PROCESS_H
#define PARENT_START_EARLY_PROCESS_H

/* Its control socket, given away, and its number; or -1: there is none. */
int early_process_take(int *ret_pid);
/* It ends, if there is one: nobody gets it. */
void early_process_drop(void);
/* In a forked copy: it is the original's. */
void early_process_forget(void);

#endif
