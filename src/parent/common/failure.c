/* See failure.h. */
#include "parent/common/failure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void set_value(struct failure *f, const void *value, size_t length) {
  free(f->value);
  f->value = value ? malloc(length ? length : 1) : NULL;
  f->value_length = f->value ? length : 0;
  if (f->value)
    memcpy(f->value, value, length);
}

void failure_set_origin(struct failure *f, const char *origin) {
  char *longer;
  f->origin = origin ? origin_name(origin) : NULL;
  if (!f->origin || !f->message || !origin_is_shown())
    return;
  if (asprintf(&longer, "%s [%s]", f->message, f->origin) < 0)
    return;
  free(f->message);
  f->message = longer;
}

void failure_set(struct failure *f, int code, const char *message,
                 const char *traceback) {
  free(f->message);
  free(f->traceback);
  set_value(f, NULL, 0);
  f->code = code;
  f->origin = NULL;
  f->message = message ? strdup(message) : NULL;
  f->traceback = traceback ? strdup(traceback) : NULL;
}

void failure_copy(struct failure *f, const mf_error *e) {
  failure_set(f, e->code, e->message, e->traceback);
  set_value(f, e->value, e->value_length);
  f->started = e->started;
}

void failure_deinit(struct failure *f) {
  failure_set(f, 0, NULL, NULL);
}

void failure_free(struct failure *f) {
  if (!f)
    return;
  failure_deinit(f);
  free(f);
}

void failure_tell(const struct failure *f, mf_error *e) {
  memset(e, 0, sizeof *e);
  e->code = f->code;
  e->message = f->message ? f->message : mf_strerror(f->code);
  e->traceback = f->traceback;
  e->started = f->started;
  e->value = f->value;
  e->value_length = f->value_length;
}

int failure_code(unsigned code) {
  static const int codes[] = {
      [FAILURE_REMOTE] = MF_EREMOTE,     [FAILURE_FORK] = MF_EFORK_FAILED,
      [FAILURE_LIMIT] = MF_ELIMIT,       [FAILURE_NOMEM] = MF_ENOMEM,
      [FAILURE_INVAL] = MF_EINVAL,       [FAILURE_UNSUPPORTED] = MF_EUNSUPPORTED,
      [FAILURE_PROTOCOL] = MF_EPROTOCOL,
  };
  return code <= FAILURE_CODE_LAST ? codes[code] : 0;
}

void failure_take(struct failure *f, const struct failure_body *b) {
  free(f->traceback);
  f->traceback = b->traceback ? strndup(b->traceback, b->ntraceback) : NULL;
  set_value(f, b->value, b->nvalue);
}
