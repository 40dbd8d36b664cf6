/* A clone of a far template may begin without a socket: most return before they need one.
 * Its number is the intake's, a socket that the template has for its clones, whose other
 * end the agent reads (wire/proto.h, remote/intake.h). Runs in far templates and their
 * clones. */
#ifndef TEMPLATE_SERVER_BARE_H
#define TEMPLATE_SERVER_BARE_H

#include <stdint.h>

/* A socket takes the place of the intake, and the agent gets its other end; where that
 * has ended, the socket has, too. 0 or -errno: it can't be made. */
int bare_take_socket(int fd);
/* The function of this clone has returned. */
void bare_tell_return(int fd);
/* The next FORK may come without a socket: its clone can make one. That was the question
 * of the FORK with that id; no answer: it can't. */
void bare_answer(int fd, uint64_t id);

#endif
