/* Flushing what a process has written by stdio. Runs in every process. */
#ifndef OS_FLUSH_H
#define OS_FLUSH_H

/* As fflush(NULL), but looks first whether any stream has something to write: where none
 * has, nothing is touched. In a new clone fflush(NULL) costs four page faults: its code,
 * the lock of the list, each stream. */
void flush_pending(void);

#endif
