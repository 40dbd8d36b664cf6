/* What the other side of sim.h writes into the slots of clones: their numbers, that they
 * have returned, their last words. The memory is shared as a FORK says. */
#include "sim.h"

#include "wire/message.h"
#include "wire/proto.h"
#include "wire/slot_layout.h"
#undef NDEBUG /* its asserts are part of the tests */
#include <assert.h>
#include <string.h>

static struct reader options_of(const struct frame *fork) {
  struct reader r;
  reader_init(&r, fork->body, fork->length);
  return r;
}

/* Where its slot is: an index into s->slots, or -1. */
static int find_slot(struct sim *s, int far, const struct frame *fork, const int *fds,
                     uint32_t *ret_slot) {
  struct reader r = options_of(fork);
  uint32_t slot = PROTO_NO_SLOT;
  while (reader_left(&r)) {
    unsigned tag = reader_u8(&r);
    size_t n;
    const unsigned char *p = (const unsigned char *)reader_str(&r, &n);
    struct reader value;
    reader_init(&value, p, n);
    if (tag == OPT_SLOT)
      slot = reader_u32(&value);
    if (tag != OPT_SLOT_STEP || !fds)
      continue;
    assert(s->nslots < SIM_MEMORIES);
    s->slots[s->nslots].far = far;
    s->slots[s->nslots].first = reader_u32(&value);
    s->slots[s->nslots].count = reader_u32(&value);
    s->slots[s->nslots].births = s->fd[fds[1]].memory;
    s->slots[s->nslots++].words = s->fd[fds[2]].memory;
    s->fd[fds[1]].closed = s->fd[fds[2]].closed = 1;
  }
  *ret_slot = slot;
  for (int i = 0; slot != PROTO_NO_SLOT && i < s->nslots; i++)
    if (s->slots[i].far == far && slot >= s->slots[i].first &&
        slot - s->slots[i].first < s->slots[i].count)
      return i;
  return -1;
}

int sim_fork(struct sim *s, int far, const struct frame *fork, const int *fds, int pid) {
  uint32_t slot;
  int i = find_slot(s, far, fork, fds, &slot);
  if (fds && fds[0] >= 0)
    s->fd[fds[0]].pid = pid;
  if (i < 0)
    return 0;
  s->slots[i].births[slot - s->slots[i].first] = (uint32_t)pid;
  s->children[pid] = 1;
  return 1;
}

volatile uint32_t *sim_birth(struct sim *s, int far, const struct frame *fork) {
  uint32_t slot;
  int i = find_slot(s, far, fork, NULL, &slot);
  assert(i >= 0);
  return &s->slots[i].births[slot - s->slots[i].first];
}

volatile uint64_t *sim_returned(struct sim *s, int far, const struct frame *fork) {
  uint32_t slot;
  int i = find_slot(s, far, fork, NULL, &slot);
  assert(i >= 0);
  struct slot *heads = s->slots[i].words;
  return &heads[slot - s->slots[i].first].returned;
}

void sim_last_words(struct sim *s, int far, const struct frame *fork, const char *text) {
  uint32_t slot;
  int i = find_slot(s, far, fork, NULL, &slot);
  assert(i >= 0);
  uint32_t at = slot - s->slots[i].first;
  struct slot *heads = s->slots[i].words;
  char *texts = (char *)heads + slot_heads_size(s->slots[i].count);
  memcpy(texts + (size_t)at * SLOT_TEXT_MAX, text, strlen(text));
  heads[at].text_size = (uint32_t)strlen(text);
}
