/* The loop of a template and of a clone before run. */
#ifndef TEMPLATE_SERVE_SERVE_H
#define TEMPLATE_SERVE_SERVE_H

#include "template/server/server.h"

/* Executes commands until this process is a new clone (SERVED_BORN) or is to enter its
 * function (SERVED_RUN). Every other end exits inside. */
int serve(struct server *s);
/* One frame of the socket or of a FORK's inner commands; parts are gathered. fds: its
 * descriptors (taken). 0 or enum served. */
int serve_frame(struct server *s, const struct frame *f, struct fdset *fds, int lost_fds);
/* A new clone: the inner commands of its FORK, each with its descriptors; what the
 * template had read is let go of. 0 or enum served. */
int serve_inner(struct server *s);

#endif
