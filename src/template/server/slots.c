/* Slots in shared memory. Runs in templates and clones. Births are kept from clones
 * (MADV_DONTFORK): what stands there decides whom the parent takes for its child. */
#include "template/server/slots.h"

#include "os/share.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

static int find_step(const struct slots *s, uint32_t index) {
  for (int i = s->nsteps - 1; i >= 0; i--)
    if (index >= s->first[i] && index - s->first[i] < s->count[i])
      return i;
  return -1;
}

volatile uint32_t *slots_birth(const struct slots *s, uint32_t index) {
  int i = find_step(s, index);
  return i < 0 ? NULL : s->births[i] + (index - s->first[i]);
}

struct slot *slots_at(const struct slots *s, uint32_t index) {
  int i = find_step(s, index);
  return i < 0 ? NULL : s->heads[i] + (index - s->first[i]);
}

char *slots_text(const struct slots *s, uint32_t index) {
  int i = find_step(s, index);
  if (i < 0)
    return NULL;
  char *texts = (char *)s->heads[i] + slot_heads_size(s->count[i]);
  return texts + (size_t)(index - s->first[i]) * SLOT_TEXT_MAX;
}

int slots_map(struct slots *s, uint32_t first, uint32_t count, int births_fd,
              int words_fd) {
  int i = s->nsteps;
  if (count == 0 || count > slot_step_count(SLOT_STEPS_MAX - 1))
    return -EINVAL;
  if (find_step(s, first) >= 0)
    return 0;
  if (i == SLOT_STEPS_MAX)
    return -E2BIG;
  void *births, *words;
  int r = share_map(births_fd, slot_births_size(count), &births);
  if (r < 0)
    return r;
  r = share_map(words_fd, slot_words_size(count), &words);
  if (r < 0) {
    share_unmap(births, slot_births_size(count));
    return r;
  }
#ifdef MADV_DONTFORK
  (void)madvise(births, slot_births_size(count), MADV_DONTFORK);
#endif
  s->births[i] = births;
  s->heads[i] = words;
  s->first[i] = first;
  s->count[i] = count;
  s->nsteps++;
  return 0;
}

void slots_forget(struct slots *s) {
  for (int i = 0; i < s->nsteps; i++) {
    munmap((void *)(uintptr_t)s->births[i], slot_births_size(s->count[i]));
    munmap(s->heads[i], slot_words_size(s->count[i]));
  }
  s->nsteps = 0;
}

void slots_forked(struct slots *s) {
  s->nsteps = 0; /* the mappings of births are not here; those of words stay, unused */
}

void slots_map_words(struct last_words **ret, int fd) {
  void *words;
  if (share_map(fd, sizeof **ret, &words) < 0)
    return;
#ifdef MADV_DONTFORK
  (void)madvise(words, sizeof **ret, MADV_DONTFORK);
#endif
  *ret = words;
}
