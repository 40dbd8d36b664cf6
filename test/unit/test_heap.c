/* The heap: classes, seals, forks, and what happens where memory or address space ends.
 */
#include "unit.h"

#include "heap_kit.h"
#include "template/heap/heap.h"
#include <lua.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

static void test_heap_gives_blocks_of_every_size(void **state) {
  struct heap *h = heap_make(state);
  static const size_t sizes[] = {1,    7,    8,     9,     16,     512,      513,    1024,
                                 1025, 4096, 65536, 98305, 131071, HEAP_BIG, 5 * MIB};
  enum { N = sizeof sizes / sizeof *sizes };
  unsigned char *blocks[N];
  for (size_t i = 0; i < N; i++) {
    blocks[i] = heap_alloc(h, NULL, 0, sizes[i]);
    assert_non_null(blocks[i]);
    memset(blocks[i], (int)i + 1, sizes[i]);
  }
  size_t live = 0;
  for (size_t i = 0; i < N; i++) {
    assert_int_equal(blocks[i][0], i + 1);
    assert_int_equal(blocks[i][sizes[i] - 1], i + 1);
    live += sizes[i];
  }
  assert_int_equal(stats_of(h).live, live);
  assert_int_equal(stats_of(h).nbig, 2);
  for (size_t i = 0; i < N; i++)
    heap_alloc(h, blocks[i], sizes[i], 0);
  assert_int_equal(stats_of(h).live, 0);
  assert_int_equal(stats_of(h).big, 0);
  heap_free(h);
}

static void test_heap_aligns_multiples_of_16(void **state) {
  struct heap *h = heap_make(state);
  for (size_t n = 8; n < 3000; n += 8) {
    uintptr_t p = (uintptr_t)heap_alloc(h, NULL, 0, n);
    assert_int_equal(p % (n % 16 == 0 ? 16 : 8), 0);
  }
  heap_free(h);
}

static void test_heap_uses_freed_blocks_again(void **state) {
  struct heap *h = heap_make(state);
  void *a = heap_alloc(h, NULL, 0, 56);
  heap_alloc(h, a, 56, 0);
  assert_ptr_equal(heap_alloc(h, NULL, 0, 56), a);
  heap_free(h);
}

static void test_heap_moves_big_blocks_without_copying_them(void **state) {
  struct heap *h = heap_make(state);
  size_t size = HEAP_BIG;
  unsigned char *p = heap_alloc(h, NULL, 0, size);
  memset(p, 5, size);
  for (; size < 64 * MIB; size *= 2) {
    p = heap_alloc(h, p, size, size * 2);
    assert_non_null(p);
    assert_int_equal(p[0], 5);
    assert_int_equal(p[HEAP_BIG - 1], 5);
    assert_int_equal(p[size * 2 - 1], 0);
  }
  p = heap_alloc(h, p, size, 100); /* small again */
  assert_int_equal(p[99], 5);
  assert_int_equal(stats_of(h).nbig, 0);
  assert_int_equal(stats_of(h).live, 100);
  heap_free(h);
}

static void test_heap_takes_many_big_blocks(void **state) {
  enum { N = 500 };
  struct heap *h = heap_make(state);
  unsigned char *blocks[N];
  for (int i = 0; i < N; i++) {
    blocks[i] = heap_alloc(h, NULL, 0, HEAP_BIG + (size_t)i * 4096);
    assert_non_null(blocks[i]);
    blocks[i][0] = (unsigned char)i;
  }
  for (int i = 0; i < N; i += 3)
    heap_alloc(h, blocks[i], HEAP_BIG + (size_t)i * 4096, 0);
  for (int i = 0; i < N; i++)
    if (i % 3)
      assert_int_equal(blocks[i][0], (unsigned char)i);
  for (int i = 0; i < N; i++)
    if (i % 3)
      heap_alloc(h, blocks[i], HEAP_BIG + (size_t)i * 4096, 0);
  assert_int_equal(stats_of(h).nbig, 0);
  assert_int_equal(stats_of(h).live, 0);
  heap_free(h);
}

/* Free places of big blocks: more than the record has room for, all of them used again.
 */
static void test_heap_uses_places_of_big_blocks_again(void **state) {
  enum { N = 150 };
  if (sizeof(void *) < 8)
    skip(); /* they are mapped anywhere */
  struct heap *h = heap_make(state);
  unsigned char *blocks[N], *last;
  for (int i = 0; i < N; i++)
    blocks[i] = memset(heap_alloc(h, NULL, 0, HEAP_BIG), i, HEAP_BIG);
  last = blocks[N - 1];
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < N - 1; i += 2)
      heap_alloc(h, blocks[i], HEAP_BIG, 0);
    for (int i = 0; i < N - 1; i += 2) {
      blocks[i] = memset(heap_alloc(h, NULL, 0, HEAP_BIG), i, HEAP_BIG);
      assert_true(blocks[i] < last);
    }
    for (int i = 0; i < N; i++)
      assert_true(blocks[i][0] == i && blocks[i][HEAP_BIG - 1] == i);
  }
  for (int i = 0; i < N; i++)
    heap_alloc(h, blocks[i], HEAP_BIG, 0);
  assert_int_equal(stats_of(h).live, 0);
  heap_free(h);
}
static void test_heap_never_reuses_sealed_holes_in_clones(void **state) {
  struct heap *h = heap_make(state);
  void *hole = heap_alloc(h, NULL, 0, 56), *kept = heap_alloc(h, NULL, 0, 56);
  heap_alloc(h, hole, 56, 0);
  heap_seal(h);
  heap_forked(h);
  char *fresh = heap_alloc(h, NULL, 0, 56);
  assert_ptr_not_equal(fresh, hole);
  assert_true((uintptr_t)fresh / 4096 != (uintptr_t)kept / 4096);
  heap_alloc(h, kept, 56, 0); /* touches nothing and is not given again */
  assert_ptr_not_equal(heap_alloc(h, NULL, 0, 56), kept);
  heap_free(h);
}

static uintptr_t page_of(const void *p) {
  return (uintptr_t)p / 4096;
}

/* What births write lies in one page, whatever is made in between, and the first blocks
 * of a clone lie there, too. */
static void test_heap_has_a_hot_page(void **state) {
  struct heap *h = heap_make(state);
  char *block[100];
  char *interpreter = heap_alloc(h, NULL, 0, 1790);
  heap_alloc(h, NULL, 0, 720); /* its stack */
  heap_set_hot(h, HEAP_HOT_USERDATA);
  void *first = heap_alloc(h, NULL, LUA_TUSERDATA, 64);
  assert_int_equal(page_of(interpreter), page_of(first));
  for (int i = 0; i < 100; i++)
    assert_true(page_of(heap_alloc(h, NULL, LUA_TSTRING, 64)) != page_of(first));
  heap_set_hot(h, HEAP_HOT_ALL);
  assert_int_equal(page_of(heap_alloc(h, NULL, 0, 200)), page_of(first));
  heap_alloc(h, NULL, 0, 5000); /* has no room there */
  heap_set_hot(h, HEAP_HOT_NONE);
  assert_true(page_of(heap_alloc(h, NULL, LUA_TUSERDATA, 64)) != page_of(first));
  heap_seal(h);
  heap_forked(h);
  uint64_t before = stats_of(h).live;
  for (int i = 0; i < 100; i++) {
    block[i] = heap_alloc(h, NULL, 0, 56);
    memset(block[i], i, 56);
  }
  assert_int_equal(page_of(block[0]), page_of(first));
  assert_int_equal(page_of(block[9]), page_of(first));
  assert_true(page_of(block[99]) != page_of(first));
  for (int i = 0; i < 100; i++) {
    assert_int_equal(block[i][0], i);
    assert_int_equal(block[i][55], i);
    heap_alloc(h, block[i], 56, 0);
  }
  assert_int_equal(stats_of(h).live, before);
  heap_free(h);
}

static void test_heap_copies_sealed_blocks_that_grow(void **state) {
  struct heap *h = heap_make(state);
  char *p = heap_alloc(h, NULL, 0, 64);
  strcpy(p, "sealed");
  heap_seal(h);
  heap_forked(h);
  char *q = heap_alloc(h, p, 64, 128);
  assert_ptr_not_equal(p, q);
  assert_string_equal(q, "sealed");
  assert_string_equal(p, "sealed"); /* not a list's link */
  heap_free(h);
}

static void test_heap_seal_is_bounded_in_a_template(void **state) {
  struct heap *h = heap_make(state);
  for (int i = 0; i < 2000; i++) {
    void *p[16];
    for (int k = 0; k < 16; k++)
      p[k] = heap_alloc(h, NULL, 0, 1000 + (size_t)k);
    heap_seal(h); /* each time with something that the next round lets go of */
    for (int k = 0; k < 16; k++)
      heap_alloc(h, p[k], 1000 + (size_t)k, 0);
  }
  assert_int_equal(stats_of(h).live, 0);
  assert_true(stats_of(h).touched < 12 * MIB);
  heap_free(h);
}

struct sharing {
  void **blocks;
  size_t n;
};

static int frees_all_and_stays_small(struct heap *h, void *data) {
  struct sharing *s = data;
  size_t before = private_bytes();
  heap_forked(h);
  for (size_t i = 0; i < s->n; i++)
    heap_alloc(h, s->blocks[i], 100, 0);
  for (int i = 0; i < 1000; i++)
    memset(heap_alloc(h, NULL, 0, 100), 1, 100);
  return private_bytes() - before < MIB;
}

static void test_heap_frees_of_sealed_blocks_touch_nothing(void **state) {
  struct heap *h = heap_make(state);
  struct sharing s = {malloc(200000 * sizeof(void *)), 200000};
  for (size_t i = 0; i < s.n; i++)
    s.blocks[i] = memset(heap_alloc(h, NULL, 0, 100), 7, 100);
  heap_seal(h);
  assert_true(in_child(frees_all_and_stays_small, h, &s));
  free(s.blocks);
  heap_free(h);
}

enum { NLOOSE = 500000 };

/* Every 1000th block stays: pages are free around it, not with it. */
static int gives_free_pages_back(struct heap *h, void *data) {
  char **p = data;
  heap_forked(h);
  size_t before = private_bytes();
  for (size_t i = 0; i < NLOOSE; i++)
    p[i] = memset(heap_alloc(h, NULL, 0, 96 + i % 4 * 8), (int)i, 96);
  uint64_t touched = stats_of(h).touched;
  for (size_t i = 0; i < NLOOSE; i++)
    if (i % 1000)
      heap_alloc(h, p[i], 96 + i % 4 * 8, 0);
  heap_release(h);
  if (!SANITIZED && private_bytes() - before > 12 * MIB)
    return 0;
  for (size_t i = 0; i < NLOOSE; i += 1000)
    if (p[i][0] != (char)i || p[i][95] != (char)i)
      return 0;
  /* And other sizes come from there, not from behind it; all stay what they are. */
  for (size_t i = 1; i < 20000; i++)
    p[i] = memset(heap_alloc(h, NULL, 0, 16 + i % 250 * 8), (int)i, 16 + i % 250 * 8);
  for (size_t i = 1; i < 20000; i++)
    if (p[i][0] != (char)i || p[i][15 + i % 250 * 8] != (char)i)
      return 0;
  return stats_of(h).touched == touched;
}

static void test_heap_gives_free_pages_back(void **state) {
  struct heap *h = heap_make(state);
  void **p = malloc(NLOOSE * sizeof *p);
  heap_seal(h);
  assert_true(in_child(gives_free_pages_back, h, p));
  free(p);
  heap_free(h);
}

static int is_fresh(const char *p, size_t n) {
  for (size_t i = 0; i < n; i += 4096)
    if (p[i])
      return 0;
  return 1;
}

static void *used_block(struct heap *h, size_t n) {
  return memset(heap_alloc(h, NULL, 0, n), 7, n);
}

static int has_nothing_kept(struct heap *h, void *data) {
  (void)data;
  heap_forked(h);
  if (!is_fresh(heap_alloc(h, NULL, 0, MIB), MIB))
    return 0;
  heap_alloc(h, used_block(h, MIB), MIB,
             0); /* nor does a clone keep any before it runs */
  return is_fresh(heap_alloc(h, NULL, 0, MIB), MIB);
}

static void test_heap_keeps_freed_mappings_while_it_runs(void **state) {
  struct heap *h = heap_make(state);
  heap_alloc(h, used_block(h, MIB), MIB, 0);
  assert_true(is_fresh(heap_alloc(h, NULL, 0, MIB), MIB));
  heap_keep(h);
  char *p = used_block(h, MIB + 5000);
  heap_alloc(h, p, MIB + 5000, 0);
  assert_int_equal(stats_of(h).nbig, 1);
  char *much_less = heap_alloc(h, NULL, 0, MIB / 2);
  assert_true(is_fresh(much_less, MIB / 2));
  assert_ptr_equal(heap_alloc(h, NULL, 0, MIB), p);
  assert_false(is_fresh(p, MIB));
  p = heap_alloc(h, p, MIB, 2 * MIB); /* grows as any other */
  assert_int_equal(p[MIB - 1], 7);
  heap_alloc(h, p, 2 * MIB, 0);
  size_t size;
  void *lent = heap_lend(h, 2 * MIB - 100, &size);
  if (sizeof(void *) < 8 && lent)
    munmap(lent, size);
  else
    assert_null(lent); /* it would not come back to its place */
  p = mmap(NULL, 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  heap_offer(h, p, 2 * MIB, 2 * MIB - 100);
  assert_ptr_equal(heap_alloc(h, NULL, LUA_TSTRING, 2 * MIB - 100), p);
  assert_int_equal(heap_withdraw(h), 1);
  heap_alloc(h, p, 2 * MIB - 100, 0);
  assert_null(heap_lend(h, 3 * MIB, &size));
  assert_ptr_equal(heap_lend(h, 2 * MIB - 100, &size), p);
  assert_int_equal(size, 2 * MIB);
  heap_offer(h, p, size, 2 * MIB - 100);
  assert_ptr_equal(heap_alloc(h, NULL, LUA_TSTRING, 2 * MIB - 100), p);
  assert_int_equal(heap_withdraw(h), 1);
  heap_alloc(h, p, 2 * MIB - 100, 0);
  assert_true(in_child(has_nothing_kept, h, NULL));
  heap_seal(h);
  assert_null(heap_lend(h, 2 * MIB, &size));
  heap_free(h);
}

static void test_heap_keeps_eight_mebibytes(void **state) {
  struct heap *h = heap_make(state);
  size_t before = private_bytes(), n = 3 * MIB + MIB / 2;
  void *p[30];
  heap_keep(h);
  for (int round = 0; round < 3; round++) {
    for (int i = 0; i < 30; i++)
      p[i] = used_block(h, i < 15 ? MIB : n);
    for (int i = 0; i < 30; i++)
      heap_alloc(h, p[i], i < 15 ? MIB : n, 0);
  }
  size_t left = private_bytes();
  assert_true(SANITIZED || left < before + 9 * MIB);
  assert_true(SANITIZED || left == 0 || left >= before + 6 * MIB);
  heap_alloc(h, used_block(h, 4 * MIB), 4 * MIB, 0); /* too big to be kept */
  assert_true(is_fresh(heap_alloc(h, NULL, 0, 4 * MIB), 4 * MIB));
  heap_free(h);
}

static int grows_a_big_sealed_block(struct heap *h, void *data) {
  size_t before = private_bytes();
  heap_forked(h);
  unsigned char *p = heap_alloc(h, data, 32 * MIB, 64 * MIB);
  for (size_t i = 0; i < 32 * MIB; i += 4096)
    if (p[i] != 9)
      return 0;
  return private_bytes() - before < MIB;
}

static void test_heap_shares_big_sealed_blocks_that_grow(void **state) {
  struct heap *h = heap_make(state);
  void *p = memset(heap_alloc(h, NULL, 0, 32 * MIB), 9, 32 * MIB);
  heap_seal(h);
  assert_true(in_child(grows_a_big_sealed_block, h, p));
  heap_free(h);
}

/* A template that has little more than its interpreter stays as it is: a huge page would
 * cost more than it saves. */
static void test_heap_leaves_tiny_runs(void **state) {
  struct heap *h = heap_make(state);
  for (int i = 0; i < 200; i++)
    heap_alloc(h, NULL, 0, 1000);
  heap_seal(h);
  assert_int_equal(heap_freeze_gain(h), 0);
  assert_true(stats_of(h).touched < MIB / 2);
  heap_free(h);
}

static int counts_its_own(struct heap *h, void *data) {
  heap_forked(h);
  uint64_t live = stats_of(h).live;
  if (stats_of(h).own != 0)
    return 0;
  heap_alloc(h, NULL, 0, 1000);
  heap_alloc(h, NULL, 0, MIB);
  if (stats_of(h).own != 1000 + MIB)
    return 0;
  heap_alloc(h, data, MIB, 0); /* a sealed one: live goes down, own does not */
  return stats_of(h).own == 1000 + MIB && stats_of(h).live == live + 1000;
}

static void test_heap_counts_what_a_clone_made(void **state) {
  struct heap *h = heap_make(state);
  void *p = heap_alloc(h, NULL, 0, MIB);
  heap_seal(h);
  assert_true(in_child(counts_its_own, h, p));
  heap_free(h);
}

static void test_heap_says_no_when_it_is_full(void **state) {
  (void)state;
  struct heap *h = heap_new(16 * MIB);
  assert_non_null(h);
  size_t n = 0;
  void *last = NULL, *p;
  while ((p = heap_alloc(h, NULL, 0, 60000))) {
    *(void **)p = last;
    last = p;
    n++;
  }
  assert_true(n > 200);
  assert_null(heap_alloc(h, NULL, 0, 60000));
  assert_null(heap_alloc(h, last, 60000, 120000)); /* and the block is what it was */
  p = *(void **)last;
  while (heap_alloc(h, NULL, 0, 50000)) /* nor is there anything less */
    ;
  heap_alloc(h, last, 60000, 0);
  assert_ptr_equal(heap_alloc(h, NULL, 0, 60000), last);
  assert_ptr_equal(heap_alloc(h, p, 60000, 50000), p); /* less must always be had */
  heap_seal(h);
  heap_forked(h);
  assert_null(heap_alloc(h, NULL, 0, 60000));
  assert_non_null(heap_alloc(h, NULL, 0, HEAP_BIG)); /* big ones lie elsewhere */
  heap_free(h);
}

static void test_heap_cuts_free_blocks_again_when_it_is_full(void **state) {
  (void)state;
  static const size_t sizes[] = {24, 40, 56, 48, 200};
  struct heap *h = heap_new(16 * MIB);
  void *last[5] = {NULL}, *p;
  int k = 0;
  for (; (p = heap_alloc(h, NULL, 0, sizes[k])); k = (k + 1) % 5) {
    *(void **)p = last[k];
    last[k] = p;
  }
  assert_null(heap_alloc(h, NULL, 0, 5000));
  for (k = 0; k < 5; k++)
    for (; last[k]; last[k] = p) {
      p = *(void **)last[k];
      heap_alloc(h, last[k], sizes[k], 0);
    }
  assert_int_equal(stats_of(h).live, 0);
  size_t n = 0;
  for (; (p = heap_alloc(h, NULL, 0, 5008)); n++) {
    assert_int_equal((uintptr_t)p % 16, 0);
    memset(p, (int)n, 5008);
  }
  assert_true(n * 5008 > 14 * MIB);
  assert_null(heap_alloc(h, NULL, 0, 5008));
  heap_free(h);
}

static int lives_in_little_space(struct heap *h, void *data) {
  (void)h;
  struct rlimit limit = {*(size_t *)data, *(size_t *)data};
  if (setrlimit(RLIMIT_AS, &limit) < 0)
    return 0;
  struct heap *little = heap_new(0);
  if (!little)
    return *(size_t *)data < 100 * MIB;
  void *big = heap_alloc(little, NULL, 0, 8 * MIB), *p = heap_alloc(little, NULL, 0, 100);
  int fine = big && p && stats_of(little).reserved <= *(size_t *)data / 2;
  for (int i = 0; i < 1000000 && heap_alloc(little, NULL, 0, 1000); i++)
    ;
  heap_free(little);
  return fine;
}

static void test_heap_fits_into_limited_address_space(void **state) {
  (void)state;
  if (SANITIZED) /* whose shadow needs more space than that */
    skip();
  for (unsigned shift = 26; shift < 33 && shift < sizeof(size_t) * 8; shift++) {
    size_t limit = (size_t)1 << shift;
    assert_true(in_child(lives_in_little_space, NULL, &limit));
  }
}

static void test_heap_gives_the_reserve_back(void **state) {
  struct heap *h = heap_make(state);
  assert_true(stats_of(h).reserved > (sizeof(size_t) > 4 ? 1024 * MIB : 256 * MIB));
  void *p = heap_alloc(h, NULL, 0, 100);
  heap_release_reserve(h, 64 * MIB);
  assert_true(stats_of(h).reserved < 100 * MIB);
  size_t n = 0;
  while (heap_alloc(h, NULL, 0, 100000))
    n++;
  assert_true(n > 600);
  heap_alloc(h, p, 100, 0);
  heap_free(h);
}

static void test_heap_offer_becomes_the_string(void **state) {
  struct heap *h = heap_make(state);
  size_t map_size = 4 * MIB;
  void *map =
      mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  heap_offer(h, map, map_size, 3 * MIB);
  assert_ptr_not_equal(heap_alloc(h, NULL, LUA_TTABLE, 3 * MIB), map);
  assert_ptr_not_equal(heap_alloc(h, NULL, LUA_TSTRING, 3 * MIB - 1), map);
  void *taken = heap_alloc(h, NULL, LUA_TSTRING, 3 * MIB);
  assert_ptr_equal(taken, map);
  assert_ptr_not_equal(heap_alloc(h, NULL, LUA_TSTRING, 3 * MIB), map);
  assert_int_equal(heap_withdraw(h), 1);
  heap_alloc(h, taken, 3 * MIB, 0);
  map = mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  heap_offer(h, map, map_size, 3 * MIB);
  assert_int_equal(heap_withdraw(h), 0);
  assert_ptr_not_equal(heap_alloc(h, NULL, LUA_TSTRING, 3 * MIB), map);
  munmap(map, map_size);
  heap_free(h);
}

static void test_heap_publishes_what_is_live(void **state) {
  struct heap *h = heap_make(state);
  volatile uint64_t where = 1;
  heap_publish(h, &where, 0);
  assert_int_equal(where, 0);
  for (int i = 0; i < 1000; i++)
    heap_alloc(h, NULL, 0, 1000);
  assert_in_range(where, 900000, 1000000);
  heap_alloc(h, NULL, 0, MIB);
  assert_in_range(where, 2000000, 2100000);
  where = 7; /* no news: not even a look */
  heap_publish(h, &where, 1);
  void *p = heap_alloc(h, NULL, 0, 1000);
  assert_int_equal(where, 7);
  for (int i = 0; i < 200; i++)
    heap_alloc(h, NULL, 0, 1000);
  assert_in_range(where, 2100000, 2300000);
  heap_alloc(h, p, 1000, 0);
  heap_publish(h, NULL, 0);
  heap_free(h);
}

static unsigned nforeign;

static void *foreign_alloc(void *ud, void *block, size_t osize, size_t nsize) {
  (void)ud, (void)osize;
  nforeign++;
  if (nsize)
    return realloc(block, nsize);
  free(block);
  return NULL;
}

static void test_heap_leaves_foreign_blocks_to_their_owner(void **state) {
  struct heap *h = heap_make(state);
  heap_set_foreign(h, foreign_alloc, NULL);
  char *a = malloc(100), *b = malloc(100);
  strcpy(a, "old");
  strcpy(b, "old");
  a = heap_alloc(h, a, 100, 1000); /* grows into the heap */
  assert_string_equal(a, "old");
  assert_int_equal(nforeign, 1);
  b = heap_alloc(h, b, 100, 50);
  assert_string_equal(b, "old");
  heap_alloc(h, b, 50, 0);
  assert_int_equal(nforeign, 3);
  heap_alloc(h, a, 1000, 0);
  assert_int_equal(stats_of(h).live, 0);
  heap_free(h);
}

static void test_heap_scratch_is_given_back(void **state) {
  struct heap *h = heap_make(state);
  uint64_t live = stats_of(h).live;
  heap_scratch_begin(h, 1000);
  void *a = heap_alloc(h, NULL, LUA_TSTRING, 40), *t = heap_alloc(h, NULL, 0, 1024);
  assert_false(heap_scratch_grown(h));
  t = heap_alloc(h, t, 1024, 2048);
  assert_true(heap_scratch_grown(h));
  heap_scratch_stop(h);
  heap_scratch_end(h); /* too early: a is alive */
  memset(a, 1, 40);
  heap_alloc(h, t, 2048, 0);
  heap_alloc(h, a, 40, 0);
  heap_scratch_end(h);
  assert_int_equal(stats_of(h).live, live);
  heap_free(h);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_heap_gives_blocks_of_every_size),
      cmocka_unit_test(test_heap_aligns_multiples_of_16),
      cmocka_unit_test(test_heap_uses_freed_blocks_again),
      cmocka_unit_test(test_heap_moves_big_blocks_without_copying_them),
      cmocka_unit_test(test_heap_takes_many_big_blocks),
      cmocka_unit_test(test_heap_uses_places_of_big_blocks_again),
      cmocka_unit_test(test_heap_never_reuses_sealed_holes_in_clones),
      cmocka_unit_test(test_heap_has_a_hot_page),
      cmocka_unit_test(test_heap_copies_sealed_blocks_that_grow),
      cmocka_unit_test(test_heap_seal_is_bounded_in_a_template),
      cmocka_unit_test(test_heap_frees_of_sealed_blocks_touch_nothing),
      cmocka_unit_test(test_heap_gives_free_pages_back),
      cmocka_unit_test(test_heap_keeps_freed_mappings_while_it_runs),
      cmocka_unit_test(test_heap_keeps_eight_mebibytes),
      cmocka_unit_test(test_heap_shares_big_sealed_blocks_that_grow),
      cmocka_unit_test(test_heap_leaves_tiny_runs),
      cmocka_unit_test(test_heap_counts_what_a_clone_made),
      cmocka_unit_test(test_heap_says_no_when_it_is_full),
      cmocka_unit_test(test_heap_cuts_free_blocks_again_when_it_is_full),
      cmocka_unit_test(test_heap_fits_into_limited_address_space),
      cmocka_unit_test(test_heap_gives_the_reserve_back),
      cmocka_unit_test(test_heap_offer_becomes_the_string),
      cmocka_unit_test(test_heap_publishes_what_is_live),
      cmocka_unit_test(test_heap_leaves_foreign_blocks_to_their_owner),
      cmocka_unit_test(test_heap_scratch_is_given_back),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
