/* SIGUSR2 in a template: what it is doing, to standard error, also while it hangs. Two
 * parts: the signal handler itself writes figures (phase, command, forks, heap,
 * collector), at once and whatever is under way, a C function that blocks included; a
 * hook adds the Lua stack of user code before its next instruction. The hook is set in
 * the main thread of the state only: code inside a coroutine shows when it returns or
 * yields. Where a debug hook is set already it stays, and there is no stack.
 *
 * User code that sets a handler of its own has it; clones have the default
 * (signals_set_own). */
#ifndef TEMPLATE_SERVER_REPORT_H
#define TEMPLATE_SERVER_REPORT_H

#include "template/heap/collector.h"
#include <stdint.h>

/* What there is to tell. Strings and objects are borrowed and may be in the middle of a
 * change. */
struct report {
  const char *name, *phase;
  const char *command;    /* under way; NULL: none */
  uint64_t user_since_ns; /* since when user code runs, as proc_now_ns; 0: none does */
  uint64_t executed, nforks;
  lua_State *L;      /* where user code runs, or NULL */
  struct heap *heap; /* NULL: the host's allocator */
  const struct collector *collector;
};

/* filler: async-signal-safe. */
void report_start(void (*filler)(struct report *ret));

#endif
