/* Reads the JSON that a NATS server answers with. Pure; runs in the parent.
 *
 * Nothing is built: a value is a part of the text, which its owner keeps, and each
 * question goes through the text again. The answers of a server are short and asked one
 * or two things. Text that is none, or is nested deeper than JSON_DEPTH, gives -EPROTO
 * whatever is asked of it, and no answer leads outside of it. */
#ifndef NATS_JSON_H
#define NATS_JSON_H

#include <stddef.h>
#include <stdint.h>

enum { JSON_DEPTH = 16 };

struct json {
  const char *at; /* the first byte of a value, borrowed */
  size_t length;
};

/* The value that the text is; -EPROTO where it is not one value. */
int json_read(const void *text, size_t length, struct json *ret);
/* A member of an object. -ENOENT: there is none of that name (which has no escapes), or v
 * is no object. */
int json_get(struct json v, const char *key, struct json *ret);
/* The same for a member of a member. */
int json_get2(struct json v, const char *outer, const char *inner, struct json *ret);
/* The first element of a list, where *item is {NULL, 0}, or the one after *item. -ENOENT:
 * there is none, or v is no list. */
int json_next(struct json v, struct json *item);
/* The first member of an object, where *key is {NULL, 0}, or the one whose value is
 * *value. Results as of json_next. */
int json_next_member(struct json v, struct json *key, struct json *value);
/* A number without a fraction, in the range of the type. -EDOM: it is something else. */
int json_integer(struct json v, int64_t *ret);
/* A string, with a NUL behind it. -EDOM: it is something else; -ENOSPC: it does not fit,
 * or it contains a NUL. Characters beyond ASCII that are escaped become question marks.
 */
int json_text(struct json v, char *room, size_t size);

#endif
