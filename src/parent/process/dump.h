/* A readable text of everything that lives on a loop, for a person who looks for what
 * hangs: mf_dump of <moonfork.h>. The parts that several files print with are here; an
 * rpc and a pool print themselves (struct dump_entry in context.h). Only reads records:
 * it changes nothing, allocates nothing and can be called from a debugger. Runs in the
 * parent. */
#ifndef PARENT_PROCESS_DUMP_H
#define PARENT_PROCESS_DUMP_H

#include "parent/process/process.h"
#include <stdio.h>

/* "process 3 (pid 4711)", with the name where it has one. */
void dump_process_name(FILE *out, const struct mf_process *p);
/* In quotes; bytes that a terminal would take for something else are escaped. */
void dump_text(FILE *out, const char *text);
/* "1.234 s": the time since then. */
void dump_seconds(FILE *out, const struct context *ctx, uint64_t since_ms);
/* ", LABEL 1.234 s" where the deadline is set; what is overdue shows as negative. */
void dump_deadline(FILE *out, const struct context *ctx, const char *label,
                   const struct deadline *d);
/* ", LABEL: code and message" where there is a failure (may be NULL). */
void dump_failure(FILE *out, const char *label, const struct failure *f);

#endif
