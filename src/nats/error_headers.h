/* An error as headers of a message, and back: of a call's answer, of a job's result, of a
 * dead letter. Bytes that a header can't have are written as %XX. Pure; runs in the
 * parent.
 *
 *   Mf-Error      REMOTE, CLONE_DIED, ...: the name of the code. Whoever has it, is one
 *   Mf-Started    no, or unknown
 *   Mf-Message    for a person, at most ERROR_TEXT_MAX bytes of it
 *   Mf-Traceback  the same
 *   Mf-Value      MessagePack of what was raised, where that was no string; left out when
 *                 it is longer than ERROR_VALUE_MAX
 *   Mf-Exit       of the process that died: "code 3", "signal 11", "signal 11 core" */
#ifndef NATS_ERROR_HEADERS_H
#define NATS_ERROR_HEADERS_H

#include "nats/engine.h"
#include <moonfork.h>

/* "EINVAL", "REMOTE", ...: as Lua calls the code. */
const char *error_name(int code);

enum { ERROR_HEADERS = 6, ERROR_TEXT_MAX = 8192, ERROR_VALUE_MAX = 65536 };

struct error_headers {
  struct engine_header list[ERROR_HEADERS];
  size_t n;
  char *room; /* what the values are in */
};
int error_headers_init(struct error_headers *h, const mf_error *e); /* 0 or -ENOMEM */
void error_headers_deinit(struct error_headers *h);

struct error_read {
  mf_error error; /* its strings are in room */
  mf_exit exit;
  char *room;
};
/* 1: the message has one; 0: it has none; -ENOMEM. With 1 error_read_deinit is due. */
int error_read_init(struct error_read *r, const struct engine_message *m);
void error_read_deinit(struct error_read *r);

#endif
