/* The heap: classes, seals, forks, and what happens where memory or address space ends.
 * The last test plays random programs against a model that knows what each block holds.
 */
#include "template/heap/heap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <lua.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

static struct heap *heap_make(void **state) {
  struct heap *h = heap_new(0);
  assert_non_null(h);
  (void)state;
  return h;
}
static struct heap_stats stats_of(const struct heap *h) {
  struct heap_stats stats;
  heap_stats(h, &stats);
  return stats;
}
/* Bytes that this process has for itself; 0 where there is no /proc. */
static size_t private_bytes(void) {
  FILE *f = fopen("/proc/self/smaps_rollup", "re");
  char line[256];
  long kib = 0, n;
  if (!f)
    return 0;
  while (fgets(line, sizeof line, f))
    if (sscanf(line, "Private_Dirty: %ld", &n) == 1)
      kib = n;
  fclose(f);
  return (size_t)kib * 1024;
}
static size_t address_space(void) {
  FILE *f = fopen("/proc/self/statm", "re");
  unsigned long pages = 0;
  if (f && fscanf(f, "%lu", &pages) != 1)
    pages = 0;
  if (f)
    fclose(f);
  return pages * (size_t)sysconf(_SC_PAGESIZE);
}
/* Runs f in a forked process and says whether it came back true. */
static int in_child(int (*f)(struct heap *h, void *data), struct heap *h, void *data) {
  fflush(NULL);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0)
    _exit(f(h, data) ? 0 : 1);
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

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
  heap_set_hot(h, HEAP_HOT_USERDATA);
  void *first = heap_alloc(h, NULL, LUA_TUSERDATA, 64);
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
/* --- freezing --- */

enum { FROZEN_BLOCK = 100, NFROZEN = 200000 }; /* 20 MB: a few huge pages */
struct frozen_heap {
  struct heap *h;
  unsigned char **small;
  unsigned char *huge, *middle; /* blocks of 9 MiB and of 300,000 bytes */
};
enum { FROZEN_HUGE = 9 << 20, FROZEN_MIDDLE = 300000 };
static void frozen_fill(struct frozen_heap *f, struct heap *h) {
  f->h = h;
  f->small = malloc(NFROZEN * sizeof *f->small);
  for (unsigned i = 0; i < NFROZEN; i++)
    f->small[i] =
        memset(heap_alloc(h, NULL, 0, FROZEN_BLOCK), (int)(i % 251), FROZEN_BLOCK);
  f->huge = memset(heap_alloc(h, NULL, 0, FROZEN_HUGE), 77, FROZEN_HUGE);
  f->middle = memset(heap_alloc(h, NULL, 0, FROZEN_MIDDLE), 78, FROZEN_MIDDLE);
  heap_seal(h);
}
static int holds(const unsigned char *p, size_t n, int c) {
  for (size_t i = 0; i < n; i++)
    if (p[i] != c)
      return 0;
  return 1;
}
static int frozen_holds(const struct frozen_heap *f) {
  for (unsigned i = 0; i < NFROZEN; i++)
    if (!holds(f->small[i], FROZEN_BLOCK, (int)(i % 251)))
      return 0;
  return holds(f->huge, FROZEN_HUGE, 77) && holds(f->middle, FROZEN_MIDDLE, 78);
}
static void frozen_free(struct frozen_heap *f) {
  for (unsigned i = 0; i < NFROZEN; i++)
    heap_alloc(f->h, f->small[i], FROZEN_BLOCK, 0);
  heap_alloc(f->h, f->huge, FROZEN_HUGE, 0);
  heap_alloc(f->h, f->middle, FROZEN_MIDDLE, 0);
  assert_int_equal(stats_of(f->h).live, 0);
  free(f->small);
  heap_free(f->h);
}
static int froze_huge_pages(const struct heap *h) {
  return stats_of(h).frozen > 20 * MIB;
}
static unsigned open_descriptors(void) {
  unsigned n = 0;
  for (int fd = 0; fd < 256; fd++)
    n += fcntl(fd, F_GETFD) >= 0;
  return n;
}
/* Bytes of page tables that a fork had to copy. */
static size_t page_tables(void) {
  FILE *f = fopen("/proc/self/status", "re");
  char line[256];
  long kib = 0;
  while (f && fgets(line, sizeof line, f))
    if (sscanf(line, "VmPTE: %ld", &kib) == 1)
      break;
  if (f)
    fclose(f);
  return (size_t)kib * 1024;
}
static int is_a_private_copy(struct heap *h, void *data) {
  struct frozen_heap *f = data;
  heap_forked(h);
  size_t before = private_bytes();
  if (!frozen_holds(f) || private_bytes() - before > MIB / 2)
    return 0;
  f->small[NFROZEN / 2][0] = 255; /* and that is nobody else's business */
  f->huge[0] = f->middle[FROZEN_MIDDLE - 1] = 255;
  return private_bytes() - before < MIB / 2 && f->small[NFROZEN / 2][1] != 255;
}
static void test_heap_frozen_is_the_same_and_private_to_each(void **state) {
  struct frozen_heap f;
  frozen_fill(&f, heap_make(state));
  unsigned before = open_descriptors();
  heap_freeze(f.h);
  if (!froze_huge_pages(f.h)) { /* the kernel has none for files: nothing has changed */
    assert_true(frozen_holds(&f));
    frozen_free(&f);
    skip();
  }
  assert_int_equal(open_descriptors(), before);
  assert_true(frozen_holds(&f));
  for (int i = 0; i < 2; i++)
    assert_true(in_child(is_a_private_copy, f.h, &f));
  assert_true(frozen_holds(&f));
  heap_thaw(f.h);
  assert_int_equal(stats_of(f.h).frozen, 0);
  assert_true(frozen_holds(&f));
  heap_freeze(f.h);
  assert_true(frozen_holds(&f));
  frozen_free(&f);
}
static int tells_its_page_tables(struct heap *h, void *data) {
  (void)h;
  *(volatile size_t *)data = page_tables();
  return 1;
}
static void test_heap_frozen_is_not_copied_by_fork(void **state) {
  enum { PAGE = 4096 };
  struct frozen_heap f;
  if (SANITIZED) /* whose shadow has page tables of its own */
    skip();
  volatile size_t *told =
      mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  frozen_fill(&f, heap_make(state));
  in_child(tells_its_page_tables, f.h, (void *)(uintptr_t)told);
  size_t before = *told;
  heap_freeze(f.h);
  int frozen = froze_huge_pages(f.h);
  in_child(tells_its_page_tables, f.h, (void *)(uintptr_t)told);
  size_t after = *told;
  munmap((void *)(uintptr_t)told, PAGE);
  frozen_free(&f);
  if (!frozen)
    skip();
  /* A huge page has a table in reserve, for when it is split. */
  assert_true(after + 10 * PAGE <= before);
}
/* Bytes that are present of the mapping with p in it. */
static size_t resident_around(const void *p) {
  FILE *f = fopen("/proc/self/smaps", "re");
  char line[512];
  int inside = 0;
  long kib = -1;
  while (f && kib < 0 && fgets(line, sizeof line, f)) {
    unsigned long from, to;
    if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
      inside = (uintptr_t)p >= from && (uintptr_t)p < to;
    else if (inside)
      (void)sscanf(line, "Rss: %ld", &kib);
  }
  if (f)
    fclose(f);
  return kib < 0 ? SIZE_MAX : (size_t)kib * 1024;
}
static int begins_with_nothing_there(struct heap *h, void *data) {
  (void)h;
  return resident_around(data) == 0;
}
/* What a small template has built lies in small pages, each of which a fork would copy:
 * it is frozen as well, at the first seal and at a later one; what births write to is
 * not. */
static void test_heap_freezes_small_runs(void **state) {
  struct heap *h = heap_make(state);
  heap_set_hot(h, HEAP_HOT_ALL);
  unsigned char *hot = memset(heap_alloc(h, NULL, 0, 100), 5, 100);
  heap_set_hot(h, HEAP_HOT_NONE);
  for (int run = 0; run < 3; run++) {
    uint64_t frozen = stats_of(h).frozen;
    unsigned char *last = NULL;
    for (int i = 0; i < 1200; i++)
      last = memset(heap_alloc(h, NULL, 0, 1000), run + 1, 1000);
    heap_seal(h);
    assert_true(heap_freeze_gain(h) >= 4 * MIB);
    heap_freeze(h);
    if (stats_of(h).frozen == 0) {
      heap_free(h);
      skip();
    }
    assert_int_equal(stats_of(h).frozen, frozen + 2 * MIB);
    assert_true(heap_freeze_gain(h) < 4 * MIB);
    assert_true(in_child(begins_with_nothing_there, h, last));
    assert_false(in_child(begins_with_nothing_there, h, hot));
    assert_true(holds(last, 1000, run + 1) && holds(hot, 100, 5));
    heap_thaw(h);
    assert_int_equal(stats_of(h).frozen, 0);
    assert_true(heap_freeze_gain(h) >= 4 * MIB);
    heap_freeze(h);
    assert_int_equal(stats_of(h).frozen, frozen + 2 * MIB);
  }
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
static int seals_forks_and_thaws(struct heap *h, void *data) {
  struct frozen_heap *f = data;
  heap_forked(h);
  for (int i = 0; i < 40000; i++)
    memset(heap_alloc(h, NULL, 0, 100), 3, 100);
  heap_seal(h);
  heap_freeze(h);
  if (!in_child(is_a_private_copy, h, f))
    return 0;
  heap_thaw(h);
  return frozen_holds(f) && in_child(is_a_private_copy, h, f);
}
static void test_heap_freezes_in_a_clone_that_is_a_template(void **state) {
  struct frozen_heap f;
  frozen_fill(&f, heap_make(state));
  heap_freeze(f.h);
  assert_true(in_child(seals_forks_and_thaws, f.h, &f));
  assert_true(frozen_holds(&f));
  frozen_free(&f);
}
static void test_heap_frozen_blocks_grow_and_shrink(void **state) {
  struct heap *h = heap_make(state);
  static const size_t sizes[] = {FROZEN_HUGE, FROZEN_MIDDLE, 5 << 20, HEAP_BIG};
  for (unsigned i = 0; i < 4; i++) {
    size_t n = sizes[i];
    unsigned char *p = memset(heap_alloc(h, NULL, 0, n), 7, n), *neighbour;
    neighbour = memset(heap_alloc(h, NULL, 0, n), 8, n);
    char *run = memset(heap_alloc(h, NULL, 0, MIB / 8 - 1), 1, MIB / 8 - 1);
    for (int k = 0; k < 10; k++) /* enough for a seal of its own */
      heap_alloc(h, NULL, 0, MIB / 8 - 1);
    heap_seal(h);
    heap_freeze(h);
    for (int k = 0; k < 3; k++) { /* an anonymous end, which then moves with the rest */
      p = heap_alloc(h, p, n << k, n << (k + 1));
      assert_true(holds(p, n << k, 7));
      memset(p, 7, n << (k + 1));
    }
    assert_true(holds(neighbour, n, 8));
    assert_int_equal(run[5], 1);
    p = heap_alloc(h, p, n * 8, n); /* into what is still the file */
    assert_true(holds(p, n, 7));
    p = heap_alloc(h, p, n, n * 2);
    assert_true(holds(p, n, 7));
    heap_thaw(h);
    assert_true(holds(p, n, 7) && holds(neighbour, n, 8));
    heap_alloc(h, p, n * 2, 0);
    heap_alloc(h, neighbour, n, 0);
  }
  heap_free(h);
}
static int freezes_without(struct heap *h, void *data) {
  struct frozen_heap *f = data;
  heap_freeze(h);
  return stats_of(h).frozen == 0 && frozen_holds(f);
}
static int freezes_without_descriptors(struct heap *h, void *data) {
  struct rlimit none = {0, 0};
  return setrlimit(RLIMIT_NOFILE, &none) == 0 && freezes_without(h, data);
}
static int freezes_without_files(struct heap *h, void *data) {
  struct rlimit none = {4096, 4096}; /* to pass that limit would be a signal */
  return setrlimit(RLIMIT_FSIZE, &none) == 0 && freezes_without(h, data);
}
static int freezes_without_huge_pages(struct heap *h, void *data) {
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  heap_freeze(h);
  return frozen_holds(data) && stats_of(h).frozen < 20 * MIB;
}
static void test_heap_stays_as_it_is_where_it_cannot_freeze(void **state) {
  struct frozen_heap f;
  frozen_fill(&f, heap_make(state));
  assert_true(in_child(freezes_without_descriptors, f.h, &f));
  assert_true(in_child(freezes_without_files, f.h, &f));
  assert_true(in_child(freezes_without_huge_pages, f.h, &f));
  frozen_free(&f);
}
static int freezes_in_little_space(struct heap *h, void *data) {
  struct frozen_heap *f = data;
  heap_release_reserve(h, 64 * MIB);
  size_t before = address_space();
  struct rlimit limit = {before + 64 * MIB, before + 64 * MIB};
  if (setrlimit(RLIMIT_AS, &limit) < 0)
    return 0;
  heap_freeze(h); /* keeps no mirrors */
  return frozen_holds(f) && address_space() < before + MIB;
}
static void test_heap_freezes_in_limited_address_space(void **state) {
  struct frozen_heap f;
  if (SANITIZED)
    skip();
  frozen_fill(&f, heap_make(state));
  assert_true(in_child(freezes_in_little_space, f.h, &f));
  heap_freeze(f.h);
  size_t with = address_space();
  heap_drop_mirrors(f.h);
  assert_true(!froze_huge_pages(f.h) || address_space() < with - 20 * MIB);
  assert_true(frozen_holds(&f));
  frozen_free(&f);
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

/* --- random programs against a model --------------------------------------------------
 */

enum { MODEL_BLOCKS = 600 };
struct model {
  struct heap *h;
  uint64_t random;
  struct {
    unsigned char *p;
    size_t n;
    unsigned char fill;
  } blocks[MODEL_BLOCKS];
  int depth, may_fail; /* in a small region: refused is fine, and changes nothing */
};
static uint64_t model_random(struct model *m) {
  m->random ^= m->random << 13;
  m->random ^= m->random >> 7;
  m->random ^= m->random << 17;
  return m->random;
}
static size_t model_size(struct model *m) {
  uint64_t r = model_random(m);
  switch (r % 16) {
  case 0:
    return HEAP_BIG - 2000 + (r >> 8) % 4000;
  case 1:
    return (r >> 8) % (r % 8 ? 400000 : 2 * MIB) + 1;
  case 2:
  case 3:
    return (r >> 8) % 20000 + 1;
  case 4:
    return (size_t)1 << ((r >> 8) % 18);
  default:
    return (r >> 8) % 300 + 1;
  }
}
static int model_holds(const struct model *m, int i, size_t n) {
  const unsigned char *p = m->blocks[i].p;
  for (size_t k = 0; k < n; k += n < 4096 ? 1 : 509)
    if (p[k] != m->blocks[i].fill)
      return 0;
  return n == 0 || p[n - 1] == m->blocks[i].fill;
}
static int model_resize(struct model *m, int i, size_t n) {
  size_t old = m->blocks[i].n;
  if (!model_holds(m, i, old))
    return 0;
  unsigned char *p = heap_alloc(m->h, m->blocks[i].p, old, n);
  if (n && !p)
    return m->may_fail && n > old && model_holds(m, i, old);
  m->blocks[i].p = p;
  m->blocks[i].n = n;
  if (!model_holds(m, i, old < n ? old : n))
    return 0;
  m->blocks[i].fill = (unsigned char)(model_random(m) | 1);
  if (n)
    memset(p, m->blocks[i].fill, n);
  return 1;
}
static int model_live(const struct model *m) {
  uint64_t live = 0;
  for (int i = 0; i < MODEL_BLOCKS; i++)
    live += m->blocks[i].n;
  struct heap_stats stats = stats_of(m->h);
  return stats.live == live && stats.own <= live;
}
static int model_play(struct model *m, int steps);
static int model_child(struct heap *h, void *data) {
  struct model *m = data;
  heap_forked(h);
  m->depth++;
  m->random += 77;
  return model_play(m, 3000);
}
static int model_fork(struct model *m) {
  if (m->depth >= 3)
    return 1;
  if (model_random(m) % 2) {
    heap_seal(m->h);
    if (model_random(m) % 2)
      heap_freeze(m->h);
  }
  return in_child(model_child, m->h, m);
}
static int model_play(struct model *m, int steps) {
  for (int step = 0; step < steps; step++) {
    uint64_t r = model_random(m);
    int i = (int)(r % MODEL_BLOCKS), fine = 1;
    if ((r >> 32) % 4000 == 0)
      fine = model_fork(m);
    else if ((r >> 32) % 1000 == 1)
      heap_seal(m->h);
    else if ((r >> 32) % 2000 == 2) {
      heap_seal(m->h);
      heap_freeze(m->h);
    } else if ((r >> 32) % 4000 == 3)
      heap_thaw(m->h);
    else if ((r >> 32) % 1000 == 4)
      heap_set_hot(m->h, (enum heap_hot)((r >> 20) % 3));
    else
      fine = model_resize(m, i, m->blocks[i].n && (r >> 20) % 3 == 0 ? 0 : model_size(m));
    if (!fine || (step % 256 == 0 && !model_live(m)))
      return 0;
  }
  for (int i = 0; i < MODEL_BLOCKS; i++)
    if (!model_holds(m, i, m->blocks[i].n))
      return 0;
  return model_live(m);
}
static void test_heap_agrees_with_a_model(void **state) {
  const char *seed = getenv("MOONFORK_TEST_SEED"), *steps = getenv("MOONFORK_TEST_STEPS");
  for (uint64_t round = 0; round < 4; round++) {
    struct model *m = calloc(1, sizeof *m);
    m->random = (seed ? strtoull(seed, NULL, 0) : 0x9e3779b97f4a7c15u) + round * 1000003;
    m->h = round % 2 ? heap_new(32 * MIB) : heap_make(state);
    m->may_fail = round % 2;
    uint64_t start = m->random;
    if (!model_play(m, steps ? atoi(steps) : 20000))
      fail_msg("seed %llu", (unsigned long long)start);
    heap_free(m->h);
    free(m);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_heap_gives_blocks_of_every_size),
      cmocka_unit_test(test_heap_aligns_multiples_of_16),
      cmocka_unit_test(test_heap_uses_freed_blocks_again),
      cmocka_unit_test(test_heap_moves_big_blocks_without_copying_them),
      cmocka_unit_test(test_heap_takes_many_big_blocks),
      cmocka_unit_test(test_heap_never_reuses_sealed_holes_in_clones),
      cmocka_unit_test(test_heap_has_a_hot_page),
      cmocka_unit_test(test_heap_copies_sealed_blocks_that_grow),
      cmocka_unit_test(test_heap_seal_is_bounded_in_a_template),
      cmocka_unit_test(test_heap_frees_of_sealed_blocks_touch_nothing),
      cmocka_unit_test(test_heap_gives_free_pages_back),
      cmocka_unit_test(test_heap_keeps_freed_mappings_while_it_runs),
      cmocka_unit_test(test_heap_keeps_eight_mebibytes),
      cmocka_unit_test(test_heap_shares_big_sealed_blocks_that_grow),
      cmocka_unit_test(test_heap_frozen_is_the_same_and_private_to_each),
      cmocka_unit_test(test_heap_frozen_is_not_copied_by_fork),
      cmocka_unit_test(test_heap_freezes_small_runs),
      cmocka_unit_test(test_heap_leaves_tiny_runs),
      cmocka_unit_test(test_heap_freezes_in_a_clone_that_is_a_template),
      cmocka_unit_test(test_heap_frozen_blocks_grow_and_shrink),
      cmocka_unit_test(test_heap_stays_as_it_is_where_it_cannot_freeze),
      cmocka_unit_test(test_heap_freezes_in_limited_address_space),
      cmocka_unit_test(test_heap_counts_what_a_clone_made),
      cmocka_unit_test(test_heap_says_no_when_it_is_full),
      cmocka_unit_test(test_heap_cuts_free_blocks_again_when_it_is_full),
      cmocka_unit_test(test_heap_fits_into_limited_address_space),
      cmocka_unit_test(test_heap_gives_the_reserve_back),
      cmocka_unit_test(test_heap_offer_becomes_the_string),
      cmocka_unit_test(test_heap_publishes_what_is_live),
      cmocka_unit_test(test_heap_leaves_foreign_blocks_to_their_owner),
      cmocka_unit_test(test_heap_scratch_is_given_back),
      cmocka_unit_test(test_heap_agrees_with_a_model),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
