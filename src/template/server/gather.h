/* A body that came in parts, or one that is grown on the way: one private mapping,
 * enlarged by mremap, so that a gigabyte is held once and never copied to grow. The first
 * `lead` bytes are left free for whoever wants a header there, as a Lua string does
 * (args.c). Runs in templates and clones. */
#ifndef TEMPLATE_SERVER_GATHER_H
#define TEMPLATE_SERVER_GATHER_H

#include <stddef.h>
#include <stdint.h>

struct gather {
  unsigned char *map;
  size_t map_size, lead, length;
};

/* Begins an empty body. No memory yet. */
void gather_init(struct gather *g, size_t lead);
void gather_deinit(struct gather *g);
/* 0 or -ENOMEM. */
int gather_put(struct gather *g, const void *data, size_t n);
/* Where to write up to n > 0 bytes more; they count after gather_commit. NULL: no memory.
 */
void *gather_room(struct gather *g, size_t n);
void gather_commit(struct gather *g, size_t n);
/* Begins again, keeping the mapping if it has at most keep bytes. */
void gather_clear(struct gather *g, size_t keep);
const unsigned char *gather_body(const struct gather *g);
/* Cuts the mapping to what is used and `tail` bytes more. 0 or -ENOMEM. */
int gather_fit(struct gather *g, size_t tail);

#endif
