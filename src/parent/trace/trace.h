/* The timeline of mf_trace: where the parent's side says what happens. One trace is
 * written at a time, for all loops of the process, in the trace-event format of Perfetto
 * and chrome://tracing (doc/trace.md): a row for each process, in it spans, which nest,
 * and marks. Rows are plain: what a process is or does, its owner knows
 * (process/process_trace.c). Runs in the parent, on any thread.
 *
 *   if (trace_is_on())         the one branch that it costs while nothing is traced
 *     trace_mark(row, now_us, "kill", TRACE_ARGS(TRACE_TEXT("signal", "TERM")));
 *
 *   trace_open -> trace_begin, trace_end, trace_mark ... -> trace_leave
 *
 * Objects are kept in memory until a turn of the loop is over (trace_rest), 32 KiB are
 * there, or the trace or the program ends. Times are microseconds of CLOCK_MONOTONIC. */
#ifndef PARENT_TRACE_H
#define PARENT_TRACE_H

#include "base/list.h"
#include <stdatomic.h>
#include <stdint.h>

/* The number of the trace that is being written; 0: none. */
extern _Atomic unsigned trace_number;
static inline int trace_is_on(void) {
  return atomic_load_explicit(&trace_number, memory_order_relaxed) != 0;
}

/* What is said of a span or a mark. */
struct trace_arg {
  const char *key;  /* NULL: the end */
  const char *text; /* NULL: the number. Any bytes; a long text is cut */
  int64_t number;
};
#define TRACE_TEXT(key, text)                                                            \
  { key, text, 0 }
#define TRACE_NUMBER(key, number)                                                        \
  { key, NULL, (int64_t)(number) }
#define TRACE_ARGS(...) ((const struct trace_arg[]){__VA_ARGS__, {NULL, NULL, 0}})

/* Embedded in its owner, zero at first; only to be read where trace_owns(). */
struct trace_row {
  struct list link;
  unsigned number; /* of the trace that it was opened in */
  unsigned depth;  /* spans that are open */
  int64_t id;
};

/* Whether the row is of the trace that is being written. */
static inline int trace_owns(const struct trace_row *r) {
  return r->number != 0 &&
         r->number == atomic_load_explicit(&trace_number, memory_order_relaxed);
}

/* When the trace began. */
uint64_t trace_since_us(void);
/* A row from now on. pid: the process's number, which is the row's where no other process
 * had it; -1: not known. order: rows stand in its order. */
void trace_open(struct trace_row *r, int pid, const char *name, uint64_t order);
/* Another name for it, or for what it executes. NULL: as it is. */
void trace_name(const struct trace_row *r, const char *name, const char *title);
/* A span inside the one that began last and has not ended. args may be NULL. */
void trace_begin(struct trace_row *r, uint64_t at_us, const char *category,
                 const char *name, const struct trace_arg *args);
/* The end of the innermost span. */
void trace_end(struct trace_row *r, uint64_t at_us, const struct trace_arg *args);
/* A span of those that may overlap, by its number in the row. */
void trace_begin_beside(const struct trace_row *r, uint64_t at_us, uint64_t id,
                        const char *category, const char *name,
                        const struct trace_arg *args);
void trace_end_beside(const struct trace_row *r, uint64_t at_us, uint64_t id,
                      const char *category, const char *name,
                      const struct trace_arg *args);
/* Something that happened in a moment. r NULL: in the parent's own row. */
void trace_mark(const struct trace_row *r, uint64_t at_us, const char *name,
                const struct trace_arg *args);
/* The row ends; spans that are open end now. It can be freed. */
void trace_leave(struct trace_row *r, uint64_t at_us);

/* A turn of the loop is over: what it brought is written. */
void trace_write(void);
static inline void trace_rest(void) {
  if (trace_is_on())
    trace_write();
}

/* Begins the trace that the environment asks for (MOONFORK_TRACE), the first time. */
void trace_from_environment(void);

#endif
