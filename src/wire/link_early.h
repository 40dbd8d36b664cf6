/* FORKs, and requests of calls, that the program writes to the command's input by itself,
 * so that its near end is not woken for them (doc/remote-protocol.md, "The program's own
 * FORKs"). Two processes then write to one pipe: a piece of at most PIPE_BUF bytes goes in
 * whole or not at all, and for anything else the near end claims the pipe, in the page
 * that both share. The program never waits for the near end. Runs in the parent and the
 * near end. */
#ifndef WIRE_LINK_EARLY_H
#define WIRE_LINK_EARLY_H

#include "wire/link_page.h"

/* ---- the program: n is the number of those that it has written before ---- */

/* It is about to be written. 1; 0: not now: the near end has the pipe, or has not seen
 * those of before. */
int link_early_begin(struct link_page *page, uint32_t n, const struct link_early *e);
/* After a begin that gave 1: it stands in the pipe, or does not. */
void link_early_end(struct link_page *page, uint32_t n, int is_written);
/* The channel of the n-th; 0: there are no more numbers. */
uint32_t link_early_channel(uint32_t n);
int link_channel_is_early(uint32_t channel);

/* ---- the near end ---- */

/* The pipe is the near end's alone until link_release. 0: the program is writing, and
 * will be done in a moment if it is not stopped: once more later. */
int link_claim(struct link_page *page);
void link_release(struct link_page *page);
/* The next that was written, *n having been taken before: 1, or 0. */
int link_early_take(struct link_page *page, uint32_t *n, struct link_early *ret);
/* The next, which may not be said to be written yet, but the far side has answered it. 0:
 * it is none of that channel (0: of any). */
int link_early_hear(struct link_page *page, uint32_t *n, uint32_t channel,
                    struct link_early *ret);

#endif
