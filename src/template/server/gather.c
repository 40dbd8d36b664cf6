/* Bodies in parts. Runs in templates and clones before run. The mapping doubles by
 * mremap, which moves page tables and not bytes; pages that were never written cost
 * nothing, so what a parent claims costs nothing, only what it sent. */
#include "template/server/gather.h"

#include "base/buf.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GATHER_FIRST = 1024 * 1024 };

void gather_init(struct gather *g, size_t lead) {
  *g = (struct gather){.lead = lead};
}

void gather_deinit(struct gather *g) {
  if (g->map)
    munmap(g->map, g->map_size);
  gather_init(g, g->lead);
}

static size_t round_to_pages(size_t n) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  return (n + page - 1) & ~(page - 1);
}

#ifdef MREMAP_MAYMOVE
static void *move_map(struct gather *g, size_t size) {
  return mremap(g->map, g->map_size, size, MREMAP_MAYMOVE);
}
#else
static void *move_map(struct gather *g, size_t size) {
  void *map =
      mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED)
    return map;
  memcpy(map, g->map, g->map_size < size ? g->map_size : size);
  munmap(g->map, g->map_size);
  return map;
}
#endif

static int resize(struct gather *g, size_t size) {
  if (size == g->map_size)
    return 0;
  void *map = g->map ? move_map(g, size)
                     : mmap(NULL, size, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED)
    return -ENOMEM;
  g->map = map;
  g->map_size = size;
  return 0;
}

void *gather_room(struct gather *g, size_t n) {
  size_t need = g->lead + g->length + n;
  if (need > g->map_size) {
    size_t size = g->map_size ? g->map_size : GATHER_FIRST;
    while (size < need)
      size *= 2;
    int r = resize(g, size);
    if (r < 0) /* twice may be too much where exactly enough is not */
      r = resize(g, round_to_pages(need));
    if (r < 0)
      return NULL;
  }
  return g->map + g->lead + g->length;
}

void gather_commit(struct gather *g, size_t n) {
  g->length += n;
}

int gather_put(struct gather *g, const void *data, size_t n) {
  if (n == 0)
    return 0;
  void *room = gather_room(g, n);
  if (!room)
    return -ENOMEM;
  memcpy(room, data, n);
  gather_commit(g, n);
  return 0;
}

void gather_clear(struct gather *g, size_t keep) {
  g->length = 0;
  if (g->map_size > keep)
    gather_deinit(g);
}

const unsigned char *gather_body(const struct gather *g) {
  return g->map ? g->map + g->lead : (const unsigned char *)"";
}

int gather_fit(struct gather *g, size_t tail) {
  return resize(g, round_to_pages(g->lead + g->length + tail));
}
