/* What clones in threads are copied from that are copied as they touch their memory
 * (thread_lazy.h): where the pointers of a sealed template are, and its memory, which is
 * the template's own as long as that is quiet, and a copy of it from the moment that the
 * template goes on. Runs in templates; any thread. */
#ifndef TEMPLATE_THREAD_PICTURE_H
#define TEMPLATE_THREAD_PICTURE_H

#include "template/heap/heap_copy.h"

enum {
  CHUNK = 16 << 10, /* what is put in place for one touch: doc/decisions/007 */
  STREAMS = 4,
  LEARNT_MAX = 32 /* chunks that the next clones get at once: the first touched them */
};

struct lazy;

struct picture_part {
  uint64_t at, size; /* from the heap's address; whole pages */
  size_t first;      /* the number of its first chunk */
  const char *memory;
};

/* Whoever looks at anything of it has the lock: picture_end changes it. */
struct picture {
  size_t refs;
  const uint64_t *bits;
  int owns_bits;
  struct picture_part *parts; /* by address */
  size_t nparts, nchunks;
  uint64_t size;
  char *copy;                 /* NULL: its memory is the template's */
  const struct lazy *teacher; /* who is watched for the chunks that all need */
  size_t nlearnt, learnt[LEARNT_MAX];
};

/* A clone that is copied from it. Whoever looks at anything of it has the lock. */
struct lazy {
  char *to;
  intptr_t difference;
  uint64_t extent;         /* from `to` to the end of its last part */
  struct picture *picture; /* NULL: all of it is in place */
  uint64_t *there;         /* a bit for each chunk */
  uint64_t missing;        /* bytes */
  struct lazy_stream {     /* who goes through memory in order gets more at once */
    size_t next, n;   /* the chunk where it is expected to go on, and how many it got */
  } streams[STREAMS]; /* such as an array, and the objects that it refers to */
  unsigned oldest;
  size_t bell; /* thread_faults.h */
};

/* The one lock of all this. Who has it touches no memory of such clones. */
void picture_lock(void);
void picture_unlock(void);

/* Of a heap that was sealed; bits: of its pointers, borrowed until picture_end. NULL: no
 * memory. On the thread that serves, as the next one. */
struct picture *picture_new(const struct heap *from, const uint64_t *bits);
/* The template is about to change: who has not got everything is copied from a copy from
 * now on. Gives p up. 1: the bits are somebody's who will free them; 0: they are still
 * the caller's; or -ENOMEM, and all is as it was. */
int picture_end(struct picture *p);
/* With the lock. */
void picture_release(struct picture *p);

/* f for each range of addresses that holds anything: neighbours are one. Returns the
 * first of f's results that is not 0. With the lock, or on the thread that serves. */
int picture_ranges(const struct picture *p, int (*f)(void *data, struct heap_range range),
                   void *data);

static inline size_t picture_chunks(uint64_t size) {
  return (size_t)((size + CHUNK - 1) / CHUNK);
}

/* Bytes of one. */
static inline uint64_t picture_chunk_size(const struct picture_part *part, size_t chunk) {
  uint64_t off = (uint64_t)(chunk - part->first) * CHUNK;
  return part->size - off < CHUNK ? part->size - off : CHUNK;
}

/* The part that holds this address, or NULL. */
const struct picture_part *picture_part_at(const struct picture *p, uint64_t at);
/* The part that a chunk belongs to. */
const struct picture_part *picture_part_of(const struct picture *p, size_t chunk);

static inline int lazy_has(const struct lazy *z, size_t chunk) {
  return (int)(z->there[chunk / 64] >> chunk % 64 & 1);
}
static inline void lazy_mark(struct lazy *z, const struct picture_part *part,
                             size_t chunk) {
  if (lazy_has(z, chunk))
    return;
  z->there[chunk / 64] |= (uint64_t)1 << chunk % 64;
  z->missing -= picture_chunk_size(part, chunk);
}

#endif
