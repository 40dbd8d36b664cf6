/* The memory that a template shares with its parent and with its clones: for each clone a
 * slot of two parts, in two files of memory that come with a FORK (OPT_SLOT_STEP):
 *
 *   births  u32[count]: the pid, written by the kernel before the clone runs. Mapped by
 *           the parent and the template; clones don't have it
 *   words   struct slot[count], then count texts of SLOT_TEXT_MAX bytes: what a clone
 *           tells without a message: how much memory its Lua uses, its last words, and
 *           that its function has returned already. Mapped by all three
 *
 * A page of it exists once it is written. Whoever maps it can write anything at any time:
 * each reader copies a value, compares it with its limit, and then uses the copy. */
#ifndef WIRE_SLOT_LAYOUT_H
#define WIRE_SLOT_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

enum { SLOT_TEXT_MAX = 8 * 1024 };

struct slot { /* one cache line, so that neighbours don't disturb each other */
  volatile uint64_t lua_live;  /* bytes, kept up to date by heap_publish */
  volatile uint32_t text_size; /* written last */
  volatile uint32_t listens;   /* at the fork its template took connections (LISTEN) */
  /* The id of its FORK: the clone's function has returned before *running* was due. */
  volatile uint64_t returned;
  uint64_t reserved[5];
};

/* What a process that no template forked has instead of a slot: a file of memory of its
 * own (OPT_WORDS), which the parent and that process map, and none of its clones. */
struct last_words {
  volatile uint32_t text_size; /* written last */
  char text[SLOT_TEXT_MAX];
};

/* Slots come in steps: 64, three times 1,024, then twice as many as before. */
enum { SLOT_STEPS_MAX = 12, SLOT_STEP_FIRST = 64, SLOT_STEP = 1024 };

static inline uint32_t slot_step_count(int step) {
  if (step == 0)
    return SLOT_STEP_FIRST;
  return step < 4 ? (uint32_t)SLOT_STEP : (uint32_t)SLOT_STEP << (step - 3);
}

static inline size_t slot_births_size(uint32_t count) {
  return count * sizeof(uint32_t);
}

static inline size_t slot_heads_size(uint32_t count) {
  return count * sizeof(struct slot); /* a multiple of 4 KiB for 64 and 1,024 */
}

static inline size_t slot_words_size(uint32_t count) {
  return slot_heads_size(count) + (size_t)count * SLOT_TEXT_MAX;
}

#endif
