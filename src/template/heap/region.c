/* See region.h. Runs in templates and clones; one thread. */
#include "template/heap/region.h"

#include "os/proc.h"
#include "template/heap/zone.h"

#include <errno.h>
#include <sys/resource.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define HEAP_LSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HEAP_LSAN 1
#endif
#endif
#ifdef HEAP_LSAN
#include <sanitizer/lsan_interface.h>
#endif

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

enum {
  GROW_MIN = 2 << 20, /* made accessible at a time */
  GROW_MAX = 64 << 20
};
#define RESERVE_DEFAULT ((uint64_t)64 << 30) /* where pointers are long enough */
/* Behind it, for big blocks. More of both would find no room above the libraries more
 * often. */
#define ZONE ((uint64_t)(UINTPTR_MAX > 0xffffffffu ? 16 : 0) << 30)
#define RESERVE_MIN ((size_t)16 << 20)

static void region_advise_huge(struct heap *h, char *from, size_t n) {
#ifdef MADV_HUGEPAGE
  if (n &&
      madvise(from, n, MADV_HUGEPAGE) == 0) /* best effort: not every kernel has them */
    h->huge += n;
#endif
}

static void region_advise_small(struct heap *h, char *from, size_t n, int was_huge) {
#ifdef MADV_NOHUGEPAGE
  if (n && madvise(from, n, MADV_NOHUGEPAGE) == 0 && was_huge)
    h->huge -= n < h->huge ? n : h->huge;
#endif
}

/* Makes [hard_end, hard_end + n) accessible. -ENOMEM leaves all as it was. */
static int region_extend(struct heap *h, size_t n, int huge) {
  if (n > (size_t)(h->end - h->hard_end))
    return -ENOMEM;
  if (mprotect(h->hard_end, n, PROT_READ | PROT_WRITE) < 0)
    return -ENOMEM;
  if (huge)
    region_advise_huge(h, h->hard_end, n);
  else
    region_advise_small(h, h->hard_end, n, 0); /* where huge pages are the default */
  h->hard_end += n;
  return 0;
}

static int region_grow(struct heap *h, size_t need) {
  size_t step = size_min((size_t)(h->top - h->run_start) / 4, GROW_MAX);
  step = round_up(step > GROW_MIN ? step : GROW_MIN, HUGE_PAGE);
  if (step < need)
    step = round_up(need, HUGE_PAGE);
  int huge = h->run_huge && !h->clone;
  if (region_extend(h, step, huge) == 0)
    return 0;
  /* The end is near, or the system counts: what is needed will do. */
  return region_extend(h, round_up(need, h->page), huge);
}

/* A template's run that outgrows its small pages goes on at the next huge page. */
static void region_turn_huge(struct heap *h) {
  char *huge = align_up(h->top, HUGE_PAGE);
  if (huge >= h->end)
    return;
  if (huge > h->hard_end && region_extend(h, (size_t)(huge - h->hard_end), 0) < 0)
    return;
  region_advise_huge(h, huge, (size_t)(h->hard_end - huge));
  h->top = huge;
  h->run_huge = 1;
}

static void region_leave_head(struct heap *h) {
  if (h->top < h->first)
    h->top = h->first;
}

int region_room(struct heap *h, size_t n) {
  region_leave_head(h);
  if (!h->clone && !h->run_huge && h->top + n > h->run_start + SMALL_RUN)
    region_turn_huge(h);
  if (n > (size_t)(h->hard_end - h->top)) {
    int r = region_grow(h, n - (size_t)(h->hard_end - h->top));
    if (r < 0)
      return r;
  }
  size_t ahead = n > PUBLISH_STEP ? n : PUBLISH_STEP;
  h->soft_end = h->top + size_min(ahead, (size_t)(h->hard_end - h->top));
  live_publish(h);
  return 0;
}

void region_start_run(struct heap *h, size_t unit) {
  region_leave_head(h);
  char *fresh = align_up(h->top, h->run_huge ? HUGE_PAGE : unit);
  if (fresh > h->hard_end)
    fresh = h->hard_end; /* the end of the region is near */
  if (h->run_huge)
    region_advise_small(h, fresh, (size_t)(h->hard_end - fresh), 1);
  h->run_huge = 0;
  h->top = h->soft_end = h->run_start = fresh;
  /* Accessible now, so that clones need not ask. */
  if ((size_t)(h->hard_end - fresh) < SMALL_RUN / 2)
    (void)region_extend(h, size_min(SMALL_RUN, (size_t)(h->end - h->hard_end)), 0);
}

size_t region_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_AS, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
    return SIZE_MAX;
  return (size_t)(limit.rlim_cur / 2);
}

static void *reserve_at(void *hint, size_t n) {
  void *p = mmap(hint, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? NULL : p;
}

/* Page tables cost a fork, too. What lies within the same GiB as the libraries shares one
 * with them, and so does the head with the dynamic linker, if it lies within the same
 * 2 MiB; above them there is nothing but, far away, the stack, which grows down, and must
 * have room. Measured: processor time of a process x 0.95. Where there is no room the
 * system chooses. */
static char *reserve_near_libraries(size_t head, size_t n) {
#ifdef AT_SYSINFO_EHDR
  enum { TRIES = 4, STACK_ROOM = 1 << 30 };
  uintptr_t vdso = (uintptr_t)getauxval(AT_SYSINFO_EHDR);
  uintptr_t stack = (uintptr_t)__builtin_frame_address(0);
  char *first = (char *)round_up(vdso + head, HUGE_PAGE);
  for (int i = 0; vdso && i < TRIES; i++, first += HUGE_PAGE) {
    char *p = reserve_at(first - head, head + n);
    uintptr_t end = (uintptr_t)first + n;
    if (p == first - head && (end > stack || stack - end >= STACK_ROOM))
      return first;
    if (p)
      munmap(p, head + n);
  }
#else
  (void)head, (void)n;
#endif
  return NULL;
}

static char *reserve_anywhere(size_t head, size_t n) {
  size_t all = head + n + HUGE_PAGE;
  char *p = reserve_at(NULL, all);
  if (!p)
    return NULL;
  char *first = align_up(p + head, HUGE_PAGE), *base = first - head;
  if (base > p)
    munmap(p, (size_t)(base - p));
  if (first + n < p + all)
    munmap(first + n, (size_t)(p + all - (first + n)));
  return first;
}

static char *reserve(size_t head, size_t n) {
  char *first = reserve_near_libraries(head, n);
  return first ? first : reserve_anywhere(head, n);
}

/* Returns the huge boundary that the head ends at. *zone: bytes behind the region; 0
 * where space is short. */
static char *region_reserve(size_t head, size_t *size, size_t *zone) {
  char *first = *zone ? reserve(head, *size - head + *zone) : NULL;
  if (first)
    return first;
  *zone = 0;
  for (; *size >= RESERVE_MIN; *size = round_up(*size / 2, HUGE_PAGE)) {
    first = reserve(head, *size - head);
    if (first)
      return first;
  }
  return NULL;
}

/* ---- for a copy ----
 *
 * Images are mapped as they are where their addresses are free. So copies lie in a part
 * of the address space that the system uses for nothing, somewhere. They differ by a
 * multiple of STEP: Lua hashes keys that are objects by the low half of their address,
 * and the copy has its tables in order. */

#define STEP ((uint64_t)4 << 30)
#define APART_FIRST ((uint64_t)0x2000 << 32)
#define APART_LAST ((uint64_t)0x5000 << 32)
enum { TRIES = 64 };

static char *reserve_exactly(uint64_t at, size_t n) {
  char *p = reserve_at((void *)(uintptr_t)at, n);
  if (!p || p == (char *)(uintptr_t)at)
    return p;
  munmap(p, n);
  return NULL;
}

uint64_t region_place_of_copy(const void *base) {
  uint64_t random, off = (uintptr_t)base & (STEP - 1);
  proc_random(&random, sizeof random);
  return APART_FIRST + random % ((APART_LAST - APART_FIRST) / STEP - 1) * STEP + off;
}

char *region_reserve_copy(size_t n, uint64_t at) {
  uint64_t off = at & (STEP - 1);
  if (sizeof(char *) == 4 || n > SIZE_MAX / 2)
    return NULL;
  char *p = reserve_exactly(at, n);
  for (int i = 0; i < TRIES && !p; i++)
    p = reserve_exactly(region_place_of_copy((void *)(uintptr_t)at), n);
  if (p)
    return p;
  char *start = reserve_at(NULL, n + (size_t)STEP); /* where those can't be had */
  if (!start)
    return NULL;
  size_t skip = (size_t)((off - (uintptr_t)start) & (STEP - 1));
  if (skip)
    munmap(start, skip);
  munmap(start + skip + n, (size_t)STEP - skip);
  return start + skip;
}

/* The leak checker looks for pointers in the region, too. */
void region_register(const struct heap *h) {
#ifdef HEAP_LSAN
  __lsan_register_root_region(h->base, (size_t)(h->end - h->base));
#endif
}

void region_forget(const struct heap *h) {
#ifdef HEAP_LSAN
  __lsan_unregister_root_region(h->base, (size_t)(h->end - h->base));
#endif
}

struct heap *region_open(size_t reserve) {
  uint64_t wanted = reserve ? reserve : RESERVE_DEFAULT;
  size_t size = wanted < SIZE_MAX / 4 ? (size_t)wanted : SIZE_MAX / 4;
  size = size < RESERVE_MIN ? RESERVE_MIN : round_up(size, HUGE_PAGE);
  size_t limit = region_limit(), zone = limit == SIZE_MAX ? (size_t)ZONE : 0;
  while (size > limit && size >= RESERVE_MIN)
    size = round_up(size / 2, HUGE_PAGE);
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t record = round_up(sizeof(struct heap), page), head = record + page;
  char *first = region_reserve(head, &size, &zone);
  if (!first)
    return NULL;
  char *base = first - head;
  if (mprotect(base, head + SMALL_RUN, PROT_READ | PROT_WRITE) < 0) {
    munmap(base, size + zone);
    return NULL;
  }
  struct heap *h = (struct heap *)(void *)base; /* zero, as fresh pages are */
  /* What is not accessible yet has no advice: it is one mapping with the zone. */
  region_advise_small(h, base, head + SMALL_RUN, 0);
  h->page = page;
  h->base = h->sealed_end = base;
  h->first = h->run_start = first;
  h->end = base + size;
  h->hard_end = first + SMALL_RUN;
  h->top = align_up(base + sizeof *h, 64);
  h->soft_end = h->top + HEAP_STATE;
  if (zone)
    zone_init(h, base + size, zone);
  region_register(h);
  return h;
}

void region_close(struct heap *h) {
  region_forget(h);
  zone_deinit(h);
  munmap(h->base, (size_t)(h->end - h->base));
}

void heap_release_zone(struct heap *h) {
  zone_end_use(h);
}

void heap_release_reserve(struct heap *h, size_t keep) {
  heap_release_zone(h);
  char *from = align_up(h->hard_end, h->page);
  size_t rest = (size_t)(h->end - from);
  keep = round_up(keep, h->page);
  if (keep >= rest)
    return;
  region_forget(h);
  if (munmap(from + keep, rest - keep) == 0)
    h->end = from + keep;
  region_register(h);
}
