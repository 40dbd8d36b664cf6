/* Bytes that grow. */
#include "serve/http.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int reserve(struct text *t, size_t more) {
  if (t->room - t->size >= more)
    return 0;
  size_t room = t->room ? t->room * 2 : 512;
  while (room - t->size < more)
    room *= 2;
  char *data = realloc(t->data, room);
  if (!data)
    return -ENOMEM;
  t->data = data;
  t->room = room;
  return 0;
}

int text_append(struct text *t, const char *data, size_t size) {
  if (reserve(t, size) < 0)
    return -ENOMEM;
  if (size > 0)
    memcpy(t->data + t->size, data, size);
  t->size += size;
  return 0;
}

/* What was large once need not stay so. */
void text_empty(struct text *t) {
  t->size = 0;
  if (t->room > READ_SIZE) {
    free(t->data);
    *t = (struct text){0};
  }
}

int text_add(struct text *t, const char *format, ...) {
  char line[512];
  va_list list;
  va_start(list, format);
  int n = vsnprintf(line, sizeof line, format, list);
  va_end(list);
  return n < 0 || n >= (int)sizeof line ? -1 : text_append(t, line, (size_t)n);
}
