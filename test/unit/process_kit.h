/* Templates and clones of a story on a world without a kernel (help/sim.h), for tests of
 * the parent's core. Here memory may run out, too. */
#ifndef PROCESS_KIT_H
#define PROCESS_KIT_H

#include "help/sim.h"
#include "parent/api/make.h"
#include "parent/private.h"
#include "parent/process/children.h"
#include "parent/process/dump.h"
#include "parent/process/process.h"
#include "parent/process/registry.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "unit.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct story {
  struct sim *sim;
  struct context *context;
  int exits, exit_known, exit_code, exit_error, memories, memory_error;
  int runs, run_error, run_started, closes;
};

extern int short_of_memory; /* for what is put by malloc(3), as frames are */

void *__wrap_malloc(size_t n);
void on_exit_told(mf_process *p, const mf_exit *status, void *data);
void on_memory(mf_process *p, const mf_error *e, const mf_memory_info *info, void *data);
void on_run(mf_process *p, const mf_error *e, int fd, void *data);
void on_close(mf_process *p, void *data);
struct story *story_new(void);
void story_free(struct story *s);
void answer_hello(struct story *s, int far, uint64_t pid);

/* A template that serves; *ret_far is its end. */
mf_process *make_template(struct story *s, int *ret_far);

/* The template executes the fork that was written last: as its parent's child, or as its
 * own, which then introduces itself. */
void execute_fork(struct story *s, mf_process *t, int far, mf_process *q, int pid,
                  int sibling);

/* A clone of t with that pid, in its function. */
mf_process *make_running(struct story *s, mf_process *t, int far, int pid);
void answer_failure(struct story *s, int far, unsigned code, unsigned phase);
void close_both(mf_process *a, mf_process *b);
/* Long enough for every look at a status that is not there yet. */
void wait_for_status(struct story *s);
/* A clone that is to run f, whose end is told. */
mf_process *ask_for_a_function(struct story *s, mf_process *t);

#endif
