/* How long the parent waits for other processes: every such time, in one place. What a
 * user can rely on (CLOSE_GRACE_MS, CALLS_GRACE_MS, HELLO_TIMEOUT_MS, the backoff) is
 * documented in doc/lua-api.md, doc/c-api.md and doc/rpc.md. Runs in the parent. */
#ifndef PARENT_COMMON_TIMES_H
#define PARENT_COMMON_TIMES_H

enum {
  /* A template program that says nothing for so long is none. */
  HELLO_TIMEOUT_MS = 30000,
  /* A process that was told to end (close, finish, reset, a run that is cancelled) gets
   * so long for what is queued; then it is killed. While a fork that somebody waits for
   * is queued in it, it may go on. */
  CLOSE_GRACE_MS = 2000,
  /* The kernel says that it has ended, or it was killed: so long may the news take. */
  REPORT_TIMEOUT_MS = 1000,
  /* A program that hung up instead of saying hello has so long to end by itself. Less
   * than REPORT_TIMEOUT_MS: what was to be forked from it is told how it ended. */
  HANGUP_TIMEOUT_MS = 250,
  /* A killed worker whose end was not noticed is given up after that: its template may
   * hang before it has forked it. */
  KILL_TIMEOUT_MS = 500,
  /* Default of the option `grace` of rpcs and pools: what a closing one waits for the
   * next answer, and a worker's time to end. moonfork.h repeats it in its initialisers.
   */
  CALLS_GRACE_MS = 10000,
  /* Default of a pool's backoff: before a worker is replaced that ended without an
   * answer, doubled for each before it in a row. moonfork.h repeats it. */
  POOL_BACKOFF_MIN_MS = 50,
  POOL_BACKOFF_MAX_MS = 5000,
  /* Between end of file and exit of an rpc's process. */
  EXIT_TIMEOUT_MS = 1000,
  /* Where no memory, or no room for descriptors, was left: once more after that. */
  STALL_RETRY_MS = 5,
  /* Where no pidfd tells of a direct child's end. */
  CHILD_POLL_MS = 50,
  /* A clone that has been born so long ago, and has not been heard of, is watched by its
   * pidfd from then on, too. */
  WORD_LOOK_MS = 500,
  /* Between two starts of a default template that comes to nothing again and again: none
   * before the second, then doubling. */
  TEMPLATE_BACKOFF_FIRST_MS = 50,
  TEMPLATE_BACKOFF_MAX_MS = 5000
};

#endif
