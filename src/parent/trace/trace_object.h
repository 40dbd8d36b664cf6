/* One object of a trace as JSON text, in a fixed room. Texts may be any bytes: what is no
 * UTF-8 becomes U+FFFD, and long ones are cut between two characters. Numbers are whole.
 * Pure; runs in the parent.
 *
 *   object_begin -> object_text, object_number, object_open, object_close ...
 *                -> object_end
 */
#ifndef PARENT_TRACE_OBJECT_H
#define PARENT_TRACE_OBJECT_H

#include <stddef.h>
#include <stdint.h>

enum {
  OBJECT_MAX = 2048,
  OBJECT_TEXT_MAX = 256, /* bytes of one text, as JSON */
  OBJECT_DEPTH = 2
};

struct object {
  char text[OBJECT_MAX];
  size_t n;
  int more[OBJECT_DEPTH], depth; /* more: a member stands before the next one */
};

void object_begin(struct object *o);
/* Members, in the innermost object. keys are our own: they need no escape. What has no
 * room is left out. */
void object_text(struct object *o, const char *key, const char *text);
void object_number(struct object *o, const char *key, int64_t number);
/* An object as a member; object_close ends it. */
void object_open(struct object *o, const char *key);
void object_close(struct object *o);
/* The whole is o->text, o->n bytes. */
void object_end(struct object *o);

#endif
