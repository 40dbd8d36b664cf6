/* The heap when it is frozen: the same for all clones, private to each, not copied by
 * fork; and where the system does not let it. */
#include "unit.h"

#include "heap_kit.h"
#include "template/heap/heap.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static size_t address_space(void) {
  FILE *f = fopen("/proc/self/statm", "re");
  unsigned long pages = 0;
  if (f && fscanf(f, "%lu", &pages) != 1)
    pages = 0;
  if (f)
    fclose(f);
  return pages * (size_t)sysconf(_SC_PAGESIZE);
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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_heap_frozen_is_the_same_and_private_to_each),
      cmocka_unit_test(test_heap_frozen_is_not_copied_by_fork),
      cmocka_unit_test(test_heap_freezes_small_runs),
      cmocka_unit_test(test_heap_freezes_in_a_clone_that_is_a_template),
      cmocka_unit_test(test_heap_frozen_blocks_grow_and_shrink),
      cmocka_unit_test(test_heap_stays_as_it_is_where_it_cannot_freeze),
      cmocka_unit_test(test_heap_freezes_in_limited_address_space),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
