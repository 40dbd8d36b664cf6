/* Shared memory between a template and its clones: for each clone one slot with its last
 * words (the error of its function) and its count of Lua memory. Mapped before the fork,
 * in big steps, so that thousands of clones cost a handful of mappings; a page of it
 * exists only once it is written. Runs in templates (all) and clones (their own slot). */
#ifndef TEMPLATE_SLOTS_H
#define TEMPLATE_SLOTS_H

#include <stddef.h>
#include <stdint.h>

enum { SLOT_TEXT_MAX = 8 * 1024 };

struct slot { /* one cache line, so that neighbours don't disturb each other */
  volatile uint64_t lua_live;  /* octets, kept up to date by heap_publish */
  volatile uint32_t text_size; /* written last */
  uint32_t unused;
  uint64_t reserved[6];
};

enum { SLOTS_STEPS_MAX = 24 };
struct slots {
  struct slot *heads[SLOTS_STEPS_MAX];
  char *texts[SLOTS_STEPS_MAX];
  uint32_t first[SLOTS_STEPS_MAX], count[SLOTS_STEPS_MAX];
  int nsteps;
  uint32_t *free; /* a stack; not in shared memory, where any clone could write */
  uint32_t nfree;
};

#define SLOT_NONE UINT32_C(0xffffffff)

/* A cleared slot, or SLOT_NONE where there is no memory for more. */
uint32_t slots_get(struct slots *s);
void slots_put(struct slots *s, uint32_t index);
struct slot *slots_at(const struct slots *s, uint32_t index);
char *slots_text(const struct slots *s, uint32_t index); /* SLOT_TEXT_MAX octets */
/* First thing in a clone: the slots are the template's; its own children get new ones. */
void slots_forked(struct slots *s);

#endif
