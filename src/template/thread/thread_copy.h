/* The interpreter of a clone that is a thread: a copy of its template's, at another
 * address. Runs in templates, on the thread that serves. */
#ifndef TEMPLATE_THREAD_COPY_H
#define TEMPLATE_THREAD_COPY_H

#include "template/server/server.h"

/* Gives `to` a copy of from's interpreter, heap and collector. from was sealed, and runs
 * nothing. lazy (enum mf_lazy): a large one is copied as it is touched, where that can be
 * (thread_lazy.h). 0, or -1 with from->failure set: what can't be copied, and why. */
int thread_copy(struct server *from, struct server *to, int lazy);
/* Lets go of what is kept for the next ones, which takes addresses: none runs. 0 or
 * -ENOMEM: it is kept. */
int thread_copy_forget(struct server *s);
/* Is this copy what a fork with that option asks for? */
int thread_copy_suits(const struct server *to, int lazy);
/* Is a copy made ahead worth it, for a fork with this option? As of the last thread_copy,
 * if nothing has changed. */
int thread_copy_ahead(const struct server *from, int lazy);
/* On the clone's thread, before any of its other code: calls __clone of what has it. 0,
 * or -1 with s->failure set. */
int thread_copy_settle(struct server *s);
/* Takes it away again, when the thread has left it. */
void thread_copy_free(struct server *s);

#endif
