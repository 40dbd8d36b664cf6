/* What a descriptor is, for the audit. Asks the kernel, and knows nothing of modules.
 * Runs in templates. */
#ifndef TEMPLATE_AUDIT_DESCRIPTOR_H
#define TEMPLATE_AUDIT_DESCRIPTOR_H

#include "template/audit/finding.h"

enum { DESCRIPTOR_TEXT_MAX = 256 };
/* 1, with its kind and what it is ("a timerfd"); 0: nothing to talk about. */
int descriptor_look(int fd, enum audit_kind *ret_kind, char *ret_what, size_t n);
/* 1 when this process holds a lock on the file, with how it was taken ("flock"). */
int descriptor_lock(int fd, const char **ret_how);

#endif
