/* Handles that can't travel to a remote process: what is said of them. Runs in the
 * parent.
 */
#ifndef BIND_FAR_HANDLE_H
#define BIND_FAR_HANDLE_H

#include <moonfork.h>

enum { FAR_HANDLE_TEXT = 320 };

/* Why fd can't travel, and what to do instead, in room (FAR_HANDLE_TEXT); NULL: it can.
 * label: what it is for the user, as in "handle 2". */
const char *far_handle_refusal(char *room, const char *label, int fd);
/* The first of n that can't. */
const char *far_handles_refusal(char *room, const int *fds, size_t n);
/* Why a process made with these options is MF_EUNSUPPORTED: the first of the standard
 * streams that can't, or a thread where there is none; or NULL. */
const char *far_options_refusal(char *room, const mf_options *o, int is_remote);

#endif
