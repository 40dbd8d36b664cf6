/* Clones that are children of their template, where they can't be its parent's
 * (birth_sibling fails, or the owner is not the parent). Nobody waits for them: the
 * kernel takes them away at their end (SA_NOCLDWAIT). Children of user code must not go
 * that way: while user code runs the disposition is the default. Runs in templates. */
#ifndef TEMPLATE_SERVER_AUTOREAP_H
#define TEMPLATE_SERVER_AUTOREAP_H

#include <sys/types.h>

/* Before such a fork, with all signals blocked or not: from now on. 0 or -ENOMEM. */
int autoreap_prepare(void);
void autoreap_add(pid_t pid);
/* Around user code. Cheap when there was no such fork. */
void autoreap_enter_user(void);
void autoreap_leave_user(void);
/* In a clone, and before the function: none of it is this process's any more. */
void autoreap_forget(void);

#endif
