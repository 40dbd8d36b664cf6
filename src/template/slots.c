/* Slots in shared memory. Runs in templates and clones. A clone can write where it likes
 * in these mappings; the template therefore believes nothing it reads there but a length
 * that it compares with the maximum, and octets. */
#include "template/slots.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SLOTS_FIRST = 64, SLOTS_STEP = 1024 };

static int find_step(const struct slots *s, uint32_t index) {
  int i = s->nsteps - 1;
  while (i > 0 && s->first[i] > index)
    i--;
  return i;
}

struct slot *slots_at(const struct slots *s, uint32_t index) {
  int i = find_step(s, index);
  return s->heads[i] + (index - s->first[i]);
}

char *slots_text(const struct slots *s, uint32_t index) {
  int i = find_step(s, index);
  return s->texts[i] + (size_t)(index - s->first[i]) * SLOT_TEXT_MAX;
}

static size_t heads_size(uint32_t count) {
  return count * sizeof(struct slot); /* a multiple of the page for 64 and 1,024 */
}

static int grow(struct slots *s) {
  if (s->nsteps == SLOTS_STEPS_MAX)
    return 0;
  int i = s->nsteps;
  uint32_t first = i ? s->first[i - 1] + s->count[i - 1] : 0;
  uint32_t count = i == 0 ? SLOTS_FIRST : i < 4 ? SLOTS_STEP : s->count[i - 1] * 2;
  size_t size = heads_size(count) + (size_t)count * SLOT_TEXT_MAX;
  uint32_t *stack = realloc(s->free, (first + count) * sizeof *stack);
  if (!stack)
    return 0;
  s->free = stack;
  char *map = mmap(NULL, size, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED)
    return 0;
  s->heads[i] = (struct slot *)(void *)map;
  s->texts[i] = map + heads_size(count);
  s->first[i] = first;
  s->count[i] = count;
  s->nsteps++;
  for (uint32_t k = count; k-- > 0;)
    slots_put(s, first + k);
  return 1;
}

uint32_t slots_get(struct slots *s) {
  if (s->nfree == 0 && !grow(s))
    return SLOT_NONE;
  uint32_t index = s->free[--s->nfree];
  memset(slots_at(s, index), 0, sizeof(struct slot));
  return index;
}

void slots_put(struct slots *s, uint32_t index) {
  s->free[s->nfree++] = index;
}

void slots_forked(struct slots *s) {
  memset(s, 0, sizeof *s);
}
