/* The file of an image. Numbers are in the machine's own byte order and sizes, which the
 * header tells; offsets are bytes from the beginning of the file, distances bytes from
 * the address of the heap.
 *
 *   header | objects | patches | parts | tables | hooks | texts
 *          | (page) bits | (page) parts
 *
 * What comes before the bits has a checksum that is compared at every load, and each
 * number in it is compared with what there is. The bits, one for each word of a part that
 * holds an address of the heap (image/pointers.h), have another one, which is compared
 * where they are used; so have the contents of the parts. Pure. */
#ifndef TEMPLATE_IMAGE_FORMAT_H
#define TEMPLATE_IMAGE_FORMAT_H

#include "template/heap/collector.h"

#include <stddef.h>
#include <stdint.h>

#define IMAGE_MAGIC "MFIMAGE"
enum {
  IMAGE_VERSION = 2,
  IMAGE_ORDER = 0x01020304,
  IMAGE_ID_MAX = 32,
  IMAGE_COUNT_MAX = 1 << 26 /* of anything */
};

struct image_object {   /* a program or library that the heap refers to */
  uint64_t base;        /* where it was: what its addresses are counted from */
  uint32_t path, npath; /* in the texts; 0 bytes: the program */
  uint32_t nid;
  uint32_t is_module; /* its handle is in the heap: one reference for it */
  unsigned char id[IMAGE_ID_MAX];
};

enum image_patch_kind { PATCH_ADDRESS, PATCH_HANDLE };
struct image_patch { /* a word of the heap that leads outside */
  uint64_t at;       /* distance */
  uint64_t add;      /* to the object's base; PATCH_HANDLE: 0 */
  uint32_t object, kind;
};

struct image_part {
  uint64_t at, size;   /* distance; whole pages */
  uint64_t file, bits; /* offsets */
};

struct image_header {
  char magic[8];
  uint32_t version, order, word, page;
  uint32_t header_size, record_size; /* of this, and of struct heap */
  uint64_t base, region, zone, open; /* of the heap */
  uint64_t server;                   /* distance of the thread that serves */
  uint64_t program;                  /* of one that was suspended by hibernate; 0: none */
  uint64_t file_size, meta_size;     /* all; what comes before the bits */
  uint64_t nobjects, npatches, nparts, ntables, nhooks, ntexts;
  uint64_t meta_sum;
  uint64_t bits_sum, content_sum; /* up to the first part; from there to the end */
  struct collector collector;     /* its figures; pointers have no meaning */
};

struct image_view { /* borrows */
  const struct image_header *header;
  const struct image_object *objects;
  const struct image_patch *patches;
  const struct image_part *parts;
  const uint64_t *tables; /* distances of tables with keys that are hashed by addresses */
  const uint64_t *hooks;  /* distances of userdata with __clone in its metatable */
  const char *texts;
};

/* Bytes of header and tables. 0: the counts are more than there can be. */
uint64_t image_meta_size(const struct image_header *h);
/* The first sizeof(struct image_header) bytes of a file of so many bytes. NULL, or what
 * is wrong with them. */
const char *image_check_header(const struct image_header *h, uint64_t file_size);
/* The same of all h->meta_size bytes, aligned for uint64_t. */
const char *image_check_meta(const void *meta, uint64_t file_size,
                             struct image_view *ret);
/* Continues a sum with n more bytes, a multiple of 8. */
uint64_t image_sum(uint64_t sum, const void *data, size_t n);
/* Of header and tables; the field for it counts as 0. */
uint64_t image_meta_sum(const void *meta, size_t n);

#endif
