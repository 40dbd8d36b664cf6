#include "image/relocate.h"

#include "image/walk54.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_AVX 1
#include <immintrin.h>
#else
#define HAS_AVX 0
#endif

struct relocation {
  uintptr_t old;
  size_t nbytes;
  uintptr_t difference;
};

static inline void correct_up_to(const struct relocation *r, void *slot, size_t last) {
  uintptr_t word;
  memcpy(&word, slot, sizeof word);
  if (word - r->old <= last) {
    word += r->difference;
    memcpy(slot, &word, sizeof word);
  }
}
/* A pointer to the end of a block may be the region's end. A corrected one leads into the
 * other region, so correcting twice does nothing. */
static inline void correct(void *context, void *slot) {
  const struct relocation *r = context;
  correct_up_to(r, slot, r->nbytes);
}
/* What lies right behind the region is somebody else's. */
static inline void correct_outside(void *context, void *slot, enum image_kind kind) {
  const struct relocation *r = context;
  correct_up_to(r, slot, r->nbytes - 1);
}
static inline void correct_contents(void *context, struct l54_userdata *u, char *memory,
                                    size_t nbytes) {
  for (size_t i = 0; i + sizeof(void *) <= nbytes; i += sizeof(void *))
    correct_outside(context, memory + i, IMAGE_USERDATA);
}
static inline uintptr_t difference_of(void *context) {
  return ((const struct relocation *)context)->difference;
}
static inline void no_object(void *context, struct l54_object *o, size_t nbytes) {
}
static inline void no_block(void *context, const void *at, size_t nbytes) {
}
static inline void no_key(void *context, struct l54_table *t, struct l54_entry *e) {
}
/* The self-check has seen that the layout is this one: memory was damaged. */
static inline void need(void *context, int holds) {
  if (!holds)
    abort();
}

static const struct walk_visitor relocating = {
    .inside = correct,
    .perhaps = correct,
    .outside = correct_outside,
    .object = no_object,
    .block = no_block,
    .uncounted = no_block,
    .need = need,
    .contents = correct_contents,
    .outside_key = no_key,
    .moved_by = difference_of,
};

void relocate_state(lua_State *L, const void *old, size_t nbytes, intptr_t difference) {
  struct relocation r = {(uintptr_t)old, nbytes, (uintptr_t)difference};
  walk_state(&relocating, &r, L);
}

/* ---- copying with a record ---- */

/* Eight words by the eight bits of a byte, from line i on. */
static void copy_lines(uint64_t *to, const uint64_t *from, size_t nlines,
                       const unsigned char *bits, uint64_t difference) {
  for (size_t i = 0; i < nlines; i++, to += 8, from += 8)
    for (int k = 0; k < 8; k++)
      to[k] = from[k] + (-(uint64_t)(bits[i] >> k & 1) & difference);
}

#if HAS_AVX
__attribute__((target("avx512f"))) static void
copy_lines_avx512(uint64_t *to, const uint64_t *from, size_t nlines,
                  const unsigned char *bits, uint64_t difference) {
  __m512i add = _mm512_set1_epi64((long long)difference);
  for (size_t i = 0; i < nlines; i++, to += 8, from += 8) {
    __m512i line = _mm512_loadu_si512(from);
    _mm512_storeu_si512(to, _mm512_mask_add_epi64(line, bits[i], line, add));
  }
}
#endif

/* The bits of each eight words are a byte, where the lowest byte comes first; elsewhere
 * all go the way of the last few. */
static size_t copy_by_bytes(void *to, const void *from, size_t nwords, const void *bits,
                            uint64_t difference) {
  static const uint16_t one = 1;
  if (!*(const unsigned char *)&one)
    return 0;
#if HAS_AVX
  if (__builtin_cpu_supports("avx512f"))
    copy_lines_avx512(to, from, nwords / 8, bits, difference);
  else
#endif
    copy_lines(to, from, nwords / 8, bits, difference);
  return nwords / 8 * 8;
}

void relocate_copy(void *to, const void *from, size_t n, const uint64_t *bits,
                   intptr_t difference) {
  const uint64_t *source = from;
  uint64_t *target = to;
  for (size_t i = copy_by_bytes(to, from, n / 8, bits, (uint64_t)difference); i < n / 8;
       i++)
    target[i] = source[i] + (-(bits[i / 64] >> i % 64 & 1) & (uint64_t)difference);
}

/* ---- what else copies need ---- */

const char *relocate_obstacle(lua_State *L) {
  const struct l54_thread *main = l54_main(l54_thread(L)->global);
  if (main->jump)
    return "a protected call of C is under way in the main thread";
  if (main->frame != &main->first_frame && main->status != LUA_YIELD)
    return "the main thread is in a function";
  return NULL;
}

void relocate_settle(lua_State *L) {
  l54_main(l54_thread(L)->global)->jump = NULL;
}

void relocate_used(lua_State *L, struct relocate_range ret[2]) {
  struct l54_thread *main = l54_main(l54_thread(L)->global);
  size_t ncells = (size_t)(main->stack_end - main->stack) + L54_SPARE_SLOTS;
  ret[0] = (struct relocate_range){l54_start_of_main((lua_State *)main),
                                   sizeof(struct l54_main_block)};
  ret[1] = (struct relocate_range){main->stack, ncells * sizeof *main->stack};
}

static void close_variables(lua_State *main, lua_State *L) {
#if LUA_VERSION_RELEASE_NUM >= 50406
  lua_closethread(main, L);
#else
  (void)L;
  lua_resetthread(main);
#endif
}

/* Objects stay as old as they are, so nothing may be collected in the other mode. Variables
 * are closed before it, as that collects. Finalisers do not: lua_close has stopped the
 * collector for good; only one of Lua's assertions wonders about old objects that they
 * write to, and ./dev configurations checked leaves it out there. When memory runs out in a
 * finaliser, Lua does collect: all in this mode, after all objects have become young. */
void relocate_close(lua_State *L) {
  struct l54_global *g = l54_thread(L)->global;
  lua_State *main = (lua_State *)l54_main(g); /* L may be garbage after it */
  close_variables(main, L);
#if LUA_VERSION_RELEASE_NUM >= 50404 /* before, a finaliser could collect */
  g->kind = 0;
  /* else what has grown old would not be finalised */
  g->finaliser_survival = g->finaliser_old1 = g->finaliser_really_old = NULL;
#else
  (void)g;
#endif
  lua_close(main);
}

void relocate_node(void *to, size_t n, const uint64_t *bits, const void *old,
                   intptr_t difference, uint64_t node) {
  uint64_t *words = to, moved = (uint64_t)(uintptr_t)old + (uint64_t)difference;
  for (size_t i = 0; i < n / 8; i++)
    if (words[i] == moved && bits[i / 64] >> i % 64 & 1)
      words[i] = node;
}
