/* A message in parts. Runs in every process; pure. */
#include "wire/parts.h"

#include <errno.h>

void parts_begin(struct parts *p, const struct frame *f) {
  *p = (struct parts){.type = f->type, .id = f->id};
}

const char *parts_refuse(const struct parts *p, const struct frame *f) {
  if (f->type != p->type)
    return "another message inside a message in parts";
  return f->id || f->nfds ? "message part with its own id or handles" : NULL;
}

int parts_grow(struct parts *p, size_t n, uint64_t max) {
  if (p->length > max || n > max - p->length)
    return -E2BIG;
  p->length += n;
  return 0;
}

void parts_end(struct parts *p) {
  *p = (struct parts){0};
}
