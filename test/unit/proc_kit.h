/* Children for tests of processes. */
#ifndef PROC_KIT_H
#define PROC_KIT_H

#include "unit/unit.h"
#include <sys/types.h>

/* Until it has ended: its status. */
int wait_for(pid_t pid);

#endif
