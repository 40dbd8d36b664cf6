/* Copies of a heap at another address: each is a working allocator with the same blocks,
 * and neither knows of the other. Copied by bytes as a clone in a thread is, and mapped
 * from a file as an image is. */
#include "template/heap/heap_copy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <lua.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define STEP ((uint64_t)4 << 30)

/* ---- a heap with blocks that are known ---- */

enum { NBLOCKS = 1500 };
struct model {
  struct heap *h;
  uint64_t random;
  struct {
    uint64_t at; /* from the heap's record; 0: none */
    size_t n;
    unsigned char fill;
  } blocks[NBLOCKS];
};

static uint64_t next_random(struct model *m) {
  m->random ^= m->random << 13;
  m->random ^= m->random >> 7;
  m->random ^= m->random << 17;
  return m->random;
}

static unsigned char *block(const struct model *m, size_t i) {
  return (unsigned char *)m->h + m->blocks[i].at;
}

static size_t random_size(struct model *m) {
  uint64_t r = next_random(m);
  return r % 40 == 0 ? HEAP_BIG + r / 64 % (3 * MIB) : 1 + r / 64 % (r % 8 ? 300 : 40000);
}

static int is_whole(const struct model *m, size_t i) {
  const unsigned char *p = block(m, i);
  for (size_t k = 0; k < m->blocks[i].n; k += k < 64 ? 1 : 61)
    if (p[k] != m->blocks[i].fill)
      return 0;
  return p[m->blocks[i].n - 1] == m->blocks[i].fill;
}

static int agrees(const struct model *m) {
  for (size_t i = 0; i < NBLOCKS; i++)
    if (m->blocks[i].at && !is_whole(m, i))
      return 0;
  return 1;
}

static void step(struct model *m) {
  size_t i = next_random(m) % NBLOCKS, n = random_size(m), old = m->blocks[i].n;
  unsigned char *p = m->blocks[i].at ? block(m, i) : NULL;
  if (p && next_random(m) % 3) {
    heap_alloc(m->h, p, old, 0);
    m->blocks[i].at = 0;
    return;
  }
  p = heap_alloc(m->h, p, p ? old : 0, n);
  assert_non_null(p);
  m->blocks[i].at = (uint64_t)(p - (unsigned char *)m->h);
  m->blocks[i].n = n;
  m->blocks[i].fill = (unsigned char)next_random(m);
  memset(p, m->blocks[i].fill, n);
}

static void run(struct model *m, int steps) {
  for (int i = 0; i < steps; i++)
    step(m);
  assert_true(agrees(m));
}

static struct model *model_new(uint64_t seed) {
  struct model *m = calloc(1, sizeof *m);
  assert_non_null(m);
  m->h = heap_new(0);
  assert_non_null(m->h);
  m->random = seed;
  return m;
}

static void model_free(struct model *m) {
  for (size_t i = 0; i < NBLOCKS; i++)
    if (m->blocks[i].at)
      heap_alloc(m->h, block(m, i), m->blocks[i].n, 0);
  assert_int_equal(heap_live(m->h), 0);
  heap_free(m->h);
  free(m);
}

/* ---- copies ---- */

struct copying {
  char *from, *to;
};

static int copy_part(void *data, char *at, size_t size) {
  const struct copying *c = data;
  char *to = c->to + (at - c->from);
  if (heap_copy_open(to, size) < 0)
    return -ENOMEM;
  memcpy(to, at, size);
  return 0;
}

static void move_word(void *data, void *word) {
  const struct copying *c = data;
  char *p;
  memcpy(&p, word, sizeof p);
  if (!p)
    return;
  p = c->to + (p - c->from);
  memcpy(word, &p, sizeof p);
}

/* NULL where this system has no addresses for it (sanitizers, 32 bits). at: where, or
 * NULL. */
static struct heap *copied_to(struct heap *h, char *at) {
  struct heap_shape shape;
  if (heap_copy_prepare(h))
    return NULL;
  heap_copy_shape(h, &shape);
  struct copying c = {(char *)h, at ? at : heap_copy_reserve(&shape, heap_copy_place(h))};
  assert_non_null(c.to);
  assert_int_equal(heap_copy_parts(h, copy_part, &c), 0);
  struct heap *copy = (struct heap *)(void *)c.to;
  assert_true(heap_copy_is_sound(copy, (uintptr_t)h, &shape));
  heap_copy_words(copy, move_word, &c);
  assert_int_equal(heap_copy_adopt(copy, 0), 0);
  return copy;
}

static struct heap *copied(struct heap *h) {
  return copied_to(h, NULL);
}

static void test_copy_is_a_working_allocator(void **state) {
  (void)state;
  for (uint64_t seed = 1; seed < 6; seed++) {
    struct model *m = model_new(seed * 77777), *other = calloc(1, sizeof *other);
    run(m, 4000);
    if (seed % 2)
      heap_seal(m->h);
    struct heap *copy = copied(m->h);
    if (!copy) {
      model_free(m);
      free(other);
      skip();
    }
    *other = *m;
    other->h = copy;
    assert_true(agrees(other));
    for (int round = 0; round < 5; round++) { /* by turns: they share nothing */
      run(m, 500);
      run(other, 700);
      assert_true(agrees(m));
    }
    model_free(m);
    run(other, 2000);
    heap_seal(other->h);
    run(other, 500);
    model_free(other);
  }
}
static void test_copy_of_a_copy(void **state) {
  (void)state;
  struct model *m = model_new(99);
  run(m, 3000);
  for (int i = 0; i < 4; i++) {
    struct heap *copy = copied(m->h);
    if (!copy) {
      model_free(m);
      skip();
    }
    assert_int_equal(((uintptr_t)copy - (uintptr_t)m->h) % STEP, 0);
    heap_free(m->h);
    m->h = copy;
    run(m, 1000);
  }
  model_free(m);
}

/* Nothing of a copy that is over is behind what the next one overwrites, at most `warm`
 * bytes of memory stay there, and the next one works. */
static void test_copy_in_the_place_of_another(void **state) {
  (void)state;
  enum { WARM = 64 << 10 };
  struct model *m = model_new(4711), *other = calloc(1, sizeof *other);
  struct heap_shape shape;
  run(m, 3000);
  heap_seal(m->h);
  char *at = NULL;
  for (int round = 0; round < 4; round++) {
    struct heap *copy = copied_to(m->h, at);
    if (!copy)
      break;
    *other = *m;
    other->h = copy;
    assert_true(agrees(other));
    heap_forked(copy);
    run(other, round % 2 ? 3000 : 10);
    heap_copy_shape(m->h, &shape);
    size_t front = heap_copy_front(m->h), page = (size_t)sysconf(_SC_PAGESIZE);
    at = heap_copy_retire(copy, &shape, front, WARM);
    assert_ptr_equal(at, copy);
    size_t behind = (size_t)shape.open - front;
    unsigned char *resident = malloc(behind / page + 1);
    assert_int_equal(mincore(at + front, behind, resident), 0);
    size_t stays = 0;
    for (size_t i = 0; i < behind / page; i++)
      stays += (resident[i] & 1) * page;
    free(resident);
    assert_true(stays <= WARM);
    for (size_t i = 0; i < behind; i++)
      assert_int_equal(at[front + i], 0);
  }
  if (at)
    heap_copy_drop(at, &shape);
  model_free(m);
  free(other);
  if (!at)
    skip();
}

static void test_copy_of_another_shape_leaves_nothing(void **state) {
  (void)state;
  struct model *m = model_new(12);
  struct heap_shape shape;
  run(m, 1000);
  struct heap *copy = copied(m->h);
  heap_copy_shape(m->h, &shape);
  shape.zone += 4096;
  char *at = copy ? heap_copy_retire(copy, &shape, heap_copy_front(m->h), 0) : NULL;
  unsigned char one;
  int mapped = copy && mincore((void *)copy, 1, &one) == 0;
  model_free(m);
  if (!copy)
    skip();
  assert_null(at);
  assert_false(mapped);
}

/* ---- mapped from a file ---- */

struct mapping {
  char *from, *to;
  FILE *file;
};

static int save_part(void *data, char *at, size_t size) {
  struct mapping *m = data;
  long off = ftell(m->file);
  if (fwrite(at, 1, size, m->file) != size || fflush(m->file) != 0)
    return -EIO;
  char *to = m->to + (at - m->from);
  return mmap(to, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fileno(m->file),
              off) == to
             ? 0
             : -ENOMEM;
}

static int goes_on(struct model *m) {
  heap_forked(m->h);
  run(m, 2000);
  heap_inherit(m->h);
  heap_seal(m->h);
  run(m, 500);
  return 1;
}

static void test_copy_may_be_mapped_from_a_file(void **state) {
  (void)state;
  struct model *m = model_new(5);
  struct heap_shape shape;
  run(m, 4000);
  for (int i = 0; i < 40000; i++) /* some huge pages */
    assert_non_null(heap_alloc(m->h, NULL, 0, 100));
  heap_seal(m->h);
  if (heap_copy_prepare(m->h)) {
    heap_free(m->h);
    free(m);
    skip();
  }
  heap_copy_shape(m->h, &shape);
  struct mapping c = {(char *)m->h, heap_copy_reserve(&shape, heap_copy_place(m->h)),
                      tmpfile()};
  assert_non_null(c.to);
  assert_non_null(c.file);
  assert_int_equal(heap_copy_parts(m->h, save_part, &c), 0);
  struct heap *copy = (struct heap *)(void *)c.to;
  heap_copy_words(copy, move_word, &(struct copying){c.from, c.to});
  assert_int_equal(heap_copy_adopt(copy, 1), 0);
  fclose(c.file);
  heap_free(m->h);
  m->h = copy;
  assert_true(agrees(m));
  struct heap_stats stats;
  heap_stats(copy, &stats);
  assert_true(stats.frozen >= 4 * MIB);
  assert_int_equal(heap_freeze_gain(copy), 0);
  fflush(NULL);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0)
    _exit(goes_on(m) ? 0 : 1);
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
  run(m, 1000);
  heap_thaw(copy);
  assert_true(agrees(m));
  run(m, 1000);
  heap_seal(copy);
  heap_freeze(copy);
  run(m, 1000);
  heap_free(copy);
  free(m);
}

/* ---- where none can be made ---- */

static void test_copy_wants_the_heap_in_one_place(void **state) {
  (void)state;
  struct heap *h = heap_new(0);
  int possible = heap_copy_prepare(h) == NULL;
  void *map = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  heap_offer(h, map, MIB, MIB - 100);
  void *string = heap_alloc(h, NULL, LUA_TSTRING, MIB - 100);
  assert_ptr_equal(string, map);
  assert_int_equal(heap_withdraw(h), 1);
  assert_non_null(heap_copy_prepare(h));
  heap_alloc(h, string, MIB - 100, 0);
  assert_int_equal(heap_copy_prepare(h) == NULL, possible);
  map = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(map, 7, MIB);
  map = heap_bring_in(h, map, MIB); /* an argument of a template */
  heap_offer(h, map, MIB, MIB - 100);
  string = heap_alloc(h, NULL, LUA_TSTRING, MIB - 100);
  assert_ptr_equal(string, map);
  assert_int_equal(heap_withdraw(h), 1);
  assert_int_equal(((char *)string)[0] + ((char *)string)[MIB - 101], 14);
  assert_int_equal(heap_copy_prepare(h) == NULL, possible);
  heap_alloc(h, string, MIB - 100, 0);
  assert_int_equal(heap_copy_prepare(h) == NULL, possible);
  void *big = heap_alloc(h, NULL, 0, 5 * MIB);
  assert_int_equal(heap_copy_prepare(h) == NULL, possible);
  heap_release_zone(h);
  assert_non_null(heap_copy_prepare(h));
  memset(big, 3, 5 * MIB); /* stays as it is, and may grow elsewhere */
  unsigned char *grown = heap_alloc(h, big, 5 * MIB, 50 * MIB);
  assert_int_equal(grown[5 * MIB - 1], 3);
  assert_int_equal(grown[50 * MIB - 1], 0);
  void *many[200];
  for (int i = 0; i < 200; i++)
    many[i] = memset(heap_alloc(h, NULL, 0, HEAP_BIG), i, HEAP_BIG);
  for (int i = 0; i < 200; i++) {
    assert_int_equal(*(unsigned char *)many[i], i);
    heap_alloc(h, many[i], HEAP_BIG, 0);
  }
  heap_alloc(h, grown, 50 * MIB, 0);
  heap_free(h);
}
static void test_copy_is_refused_with_wrong_figures(void **state) {
  (void)state;
  struct heap *h = heap_new(0);
  struct heap_shape shape, other;
  if (heap_copy_prepare(h)) {
    heap_free(h);
    skip();
  }
  heap_copy_shape(h, &shape);
  uint64_t base = (uintptr_t)h;
  assert_true(heap_copy_is_sound(h, base, &shape));
  assert_false(heap_copy_is_sound(h, base + STEP, &shape));
  other = shape;
  other.zone /= 2;
  assert_false(heap_copy_is_sound(h, base, &other));
  other = shape;
  other.open += 4096;
  assert_false(heap_copy_is_sound(h, base, &other));
  other = shape;
  other.region += 4096;
  assert_false(heap_copy_is_sound(h, base, &other));
  heap_free(h);
}
static void test_zone_uses_free_addresses_again(void **state) {
  (void)state;
  struct heap *h = heap_new(0);
  if (heap_copy_prepare(h)) {
    heap_free(h);
    skip();
  }
  char *first = heap_alloc(h, NULL, 0, MIB), *low = first, *high = first;
  void *held[8] = {first};
  size_t sizes[8] = {MIB, MIB, MIB, MIB, MIB, MIB, MIB, MIB};
  for (int i = 1; i < 8; i++)
    held[i] = heap_alloc(h, NULL, 0, MIB);
  for (int round = 0; round < 20000; round++) {
    int i = round * 5 % 8;
    size_t n = MIB + (size_t)(round % 7) * 5000;
    heap_alloc(h, held[i], sizes[i], 0);
    sizes[i] = n;
    char *p = held[i] = heap_alloc(h, NULL, 0, n);
    assert_non_null(p);
    low = p < low ? p : low;
    high = p > high ? p : high;
  }
  assert_true(high - low < (ptrdiff_t)(64 * MIB));
  heap_free(h);
}

static int is_marked(const struct pointers *p, const void *word) {
  uint64_t i = (uint64_t)((const char *)word - p->base) / sizeof(void *);
  return (int)(p->bits[i / 64] >> i % 64 & 1);
}

/* Patterns of LPeg have half-set words, which looked like pointers into the region of a
 * heap that lies near the libraries: one of thirty was damaged by a move. */
static void test_words_that_lead_to_unused_memory_are_no_pointers(void **state) {
  (void)state;
  if (sizeof(void *) < 8)
    skip(); /* there are no copies */
  struct heap *h = heap_new(0);
  assert_non_null(h);
  lua_State *L = lua_newstate(heap_alloc, h);
  assert_non_null(L);
  char **words = lua_newuserdatauv(L, 5 * sizeof *words, 0);
  void *big = lua_newuserdatauv(L, 2 * MIB, 0);
  char *base = (char *)h;
  words[0] = (char *)words;        /* this userdata */
  words[1] = (char *)big + MIB;    /* a big block */
  words[2] = base + 40 * STEP / 4; /* 40 GiB behind, where nothing is */
  words[3] =
      base + (size_t)70 * 1024 * MIB + 5 * MIB * 1024; /* far behind the big block */
  words[4] = base - 4096;                              /* before it */
  struct pointers p;
  assert_int_equal(heap_copy_pointers(h, L, &p), 0);
  assert_true(is_marked(&p, &words[0]));
  assert_true(is_marked(&p, &words[1]));
  for (int i = 2; i < 5; i++)
    assert_false(is_marked(&p, &words[i]));
  pointers_free(&p);
  lua_close(L);
  heap_free(h);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_words_that_lead_to_unused_memory_are_no_pointers),
      cmocka_unit_test(test_copy_is_a_working_allocator),
      cmocka_unit_test(test_copy_of_a_copy),
      cmocka_unit_test(test_copy_in_the_place_of_another),
      cmocka_unit_test(test_copy_of_another_shape_leaves_nothing),
      cmocka_unit_test(test_copy_may_be_mapped_from_a_file),
      cmocka_unit_test(test_copy_wants_the_heap_in_one_place),
      cmocka_unit_test(test_copy_is_refused_with_wrong_figures),
      cmocka_unit_test(test_zone_uses_free_addresses_again),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
