/* Calls handed to workers that come and go. The decisions are policy.h's; here are the
 * processes, the queue, the clock and the callbacks. Runs in the parent.
 *
 *   template --fork--> worker (an rpc) ... worker
 *                        ^ calls, least loaded first
 *        queue (FIFO) ---+          answers -> callbacks
 *
 * A call's life:
 *
 *   WAITING -> WORKING ----------------> answered
 *     | ^        |  \-> ABANDONED (cancelled or timed out): its answer is awaited and dropped
 *     | \--------/ its worker died and had not entered it, or it may run again
 *     \-> PENDING: the task calls its callback with an error
 *
 * Everything but giving a call to a worker with room is done in one task, so that no
 * decision is taken in the middle of another. */
#ifndef PARENT_POOL_H
#define PARENT_POOL_H

#include "parent/rpc/rpc.h"

#endif
