/* Memory that runs out in test_process_sim.c. */
#ifndef PROCESS_SIM_MEMORY_H
#define PROCESS_SIM_MEMORY_H

#include "help/sim.h"

/* The next allocations of the core that fail: counts down. The world's own never do. */
extern unsigned fail_in, fail_count;
extern struct sim *failing;

#endif
