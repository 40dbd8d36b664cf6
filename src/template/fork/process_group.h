/* The option tree: a process leads a process group, and what it starts (io.popen,
 * os.execute, clone.fork) is born into it. Its parent signals the group as a whole, and
 * ends what is left of it when the leader has ended; the leash is the group's, too
 * (server/leash.h). A program that goes to another group (setsid, setpgid, a shell with
 * job control) has left on purpose. Clones are not members: each leads a group of its
 * own. Runs in templates and clones. */
#ifndef TEMPLATE_FORK_PROCESS_GROUP_H
#define TEMPLATE_FORK_PROCESS_GROUP_H

#include "template/server/server.h"

/* In a clone, first of all: what happens to its template's group must not happen to it.
 * And where o says nothing, it is as its template. */
void process_group_born(const struct server *s, struct options *o);
/* In the template behind its fork: waits until the clone has left its group. The parent
 * ends the whole group of a template that has ended, and the next command may be CLOSE.
 */
void process_group_await_leaving(const struct server *s, pid_t clone);
/* The process leads its group from now on, if o says so, on that leash (taken; -1: the
 * one that is there). 0, or a negated errno. */
int process_group_lead(struct server *s, const struct options *o, int leash);

#endif
