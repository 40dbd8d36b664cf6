/* Whether work is outstanding: what keeps the loop alive. Runs in the parent. */
#include "parent/process/internal.h"

#include "parent/process/process_trace.h"

static int is_asked_for_memory(const struct mf_process *p) {
  list_each(it, &p->memory) {
    if (!list_entry(it, struct memory_request, link)->quiet)
      return 1;
  }
  return 0;
}

static int is_busy(const struct mf_process *p) {
  int works;
  if (p->internal || p->context->stopping)
    return 0;
  if (p->pending || (p->finish.kind != FINISH_NONE && !p->finish.quiet) ||
      is_asked_for_memory(p))
    return 1;
  if (p->ending == END_BY_THREADS) /* clones that run are not waited for */
    return p->exit_to.cb && !p->quiet;
  works = p->state == FORKING || p->state == SERVING || p->state == ENDING;
  if (works && p->ndone < p->nwork && !p->chan.write_closed && !p->eof)
    return 1;
  if (p->state == BATCHED || (p->state == FORKING && !p->forked))
    return 1;
  if (ending_is_awaited(p) || (p->hung_up && p->state == ENDING && !p->finish.quiet))
    return 1;
  return p->exit_to.cb && !p->quiet &&
         (p->state == RUNNING || p->state == ENDING || p->state == FAILED || p->eof ||
          p->gone || (p->dying && p->state != DEAD && p->state != DETACHED));
}

void process_update(struct mf_process *p) {
  ending_look(p);
  unsigned busy = (unsigned)is_busy(p);
  process_trace(p);
  if (busy == p->busy)
    return;
  p->busy = busy;
  context_count_busy(p->context, busy ? 1 : -1);
}
