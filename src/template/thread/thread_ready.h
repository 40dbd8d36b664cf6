/* Clones made ahead, for templates that are small, or whose clones are copied as they are
 * touched (thread_lazy.h), and fork threads one after another:
 * copy, thread and its own descriptors are ready, and the thread itself reads the
 * template's next command, while the template's own thread sleeps. A FORK that asks for a
 * clone in a thread it takes, and is that clone, without another thread to be woken
 * before its function runs; everything else it leaves where it is, and ends. So there is
 * one only while the template sleeps, and none is older than the template's last change.
 *
 * Where commands come faster than clones are made, a few are: one reads, the others wait
 * for their turn, and the template's own thread makes more meanwhile.
 *
 * Runs in templates. */
#ifndef TEMPLATE_THREAD_READY_H
#define TEMPLATE_THREAD_READY_H

#include "template/server/server.h"

/* In the place of a sleep for the next command. 1: one has come, and is taken or is to be
 * read; 0: nothing was done, for there is no such clone. */
int thread_ready_wait(struct server *s);

#endif
