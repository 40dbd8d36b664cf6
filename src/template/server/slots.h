/* The slots of a template's clones (wire/slot_layout.h), as the parent gave them. Runs in
 * templates (all slots) and in clones (their own). */
#ifndef TEMPLATE_SERVER_SLOTS_H
#define TEMPLATE_SERVER_SLOTS_H

#include "wire/slot_layout.h"
#include <sys/types.h>

struct slots {
  volatile uint32_t *births[SLOT_STEPS_MAX];
  struct slot *heads[SLOT_STEPS_MAX];
  uint32_t first[SLOT_STEPS_MAX], count[SLOT_STEPS_MAX];
  int nsteps;
};

/* Maps one more step (borrows the descriptors); a known one is left as it is. 0 or
 * -errno. */
int slots_map(struct slots *s, uint32_t first, uint32_t count, int births_fd,
              int words_fd);
/* Where the kernel is to write the pid; NULL: no such slot. */
volatile uint32_t *slots_birth(const struct slots *s, uint32_t index);
/* NULL: no such slot. */
struct slot *slots_at(const struct slots *s, uint32_t index);
char *slots_text(const struct slots *s, uint32_t index); /* SLOT_TEXT_MAX bytes */
/* The memory of OPT_WORDS (borrows the descriptor): *ret, or NULL where it can't be
 * mapped. No process that this one forks has it. */
void slots_map_words(struct last_words **ret, int fd);
/* They were a former owner's, who will not look there any more. */
void slots_forget(struct slots *s);
/* First thing in a clone: the slots are the template's; its own children get new ones. */
void slots_forked(struct slots *s);

#endif
