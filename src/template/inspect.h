/* A dead child's status and resource use, without reaping it. inspect_linux.c or
 * inspect_posix.c. Runs in templates. */
#ifndef TEMPLATE_INSPECT_H
#define TEMPLATE_INSPECT_H

#include "os/proc.h"

/* 0, MF_AGAIN: it lives, -ECHILD: no child of ours any more. */
int inspect_child(pid_t pid, struct proc_status *ret);

#endif
