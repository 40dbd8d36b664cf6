/* A failure that is kept: the copy of an mf_error, or what a process reported in a frame
 * (wire/failure_body.h, which the control socket and rpcs share). Runs in
 * the parent; memory only. */
#ifndef PARENT_COMMON_FAILURE_H
#define PARENT_COMMON_FAILURE_H

#include "base/origin.h"
#include "wire/failure_body.h"
#include <moonfork.h>
#include <stddef.h>

struct failure {
  int code, started;         /* code 0: none */
  char *message, *traceback; /* owned, may be NULL */
  void *value;               /* owned; NULL: none. See mf_error */
  size_t value_length;
  const char *origin; /* where in the code it was made; NULL: not known */
};

/* Replaces the contents (at first zero) by copies. Where memory is short a text is
 * missing. */
void failure_set(struct failure *f, int code, const char *message, const char *traceback);
/* It was made there (ORIGIN; NULL: that is not known). With MOONFORK_DEBUG=origin in the
 * environment its message says so, too. */
void failure_set_origin(struct failure *f, const char *origin);
/* The same with all that the error says, its exit excepted. */
void failure_copy(struct failure *f, const mf_error *e);
/* Frees what it owns; it is zero again. */
void failure_deinit(struct failure *f);
/* The same, and the struct itself (may be NULL). */
void failure_free(struct failure *f);
/* Fills *e with borrowed texts; no exit. */
void failure_tell(const struct failure *f, mf_error *e);

/* The MF_E... of an enum failure_code; 0: there is no such. */
int failure_code(unsigned code);
/* Traceback and value of the frame, copied; the message is the caller's business. */
void failure_take(struct failure *f, const struct failure_body *b);

#endif
