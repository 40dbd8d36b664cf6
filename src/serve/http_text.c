/* Bytes that grow. */
#include "serve/http.h"

#include <errno.h>
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

/* Decimal, or hexadecimal. */
int text_add_number(struct text *t, size_t number, unsigned base) {
  char digits[24], *at = digits + sizeof digits;
  do {
    *--at = "0123456789abcdef"[number % base];
    number /= base;
  } while (number > 0);
  return text_append(t, at, (size_t)(digits + sizeof digits - at));
}
