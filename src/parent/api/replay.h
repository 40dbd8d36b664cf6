/* A template that has ended is made again from its journal. Runs in the parent. */
#ifndef PARENT_API_REPLAY_H
#define PARENT_API_REPLAY_H

#include "parent/process/journal.h"

/* A process that has been given all that. Its failures come later, as ever. 0 or a code;
 * journal NULL: MF_ETEMPLATE_DIED. */
int replay_journal(const struct journal *j, struct context *ctx, mf_process **ret);

#endif
