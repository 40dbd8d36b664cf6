/* See format.h. */
#include "template/image/format.h"

#include "template/heap/heap_copy.h"

#include <string.h>
#include <unistd.h>

static uint64_t in_pages(uint64_t n, uint64_t page) {
  return (n + page - 1) / page * page;
}

static int fits(uint64_t n) {
  return n <= IMAGE_COUNT_MAX;
}

uint64_t image_meta_size(const struct image_header *h) {
  if (!fits(h->nobjects) || !fits(h->npatches) || !fits(h->nparts) || !fits(h->ntables) ||
      !fits(h->nhooks) || !fits(h->ntexts))
    return 0;
  return in_pages(sizeof *h + h->nobjects * sizeof(struct image_object) +
                      h->npatches * sizeof(struct image_patch) +
                      h->nparts * sizeof(struct image_part) +
                      (h->ntables + h->nhooks) * sizeof(uint64_t) + h->ntexts,
                  h->page);
}

const char *image_check_header(const struct image_header *h, uint64_t file_size) {
  if (memcmp(h->magic, IMAGE_MAGIC, sizeof h->magic) != 0)
    return "it is no image";
  if (h->version != IMAGE_VERSION)
    return "it is of another version of moonfork";
  if (h->order != IMAGE_ORDER || h->word != sizeof(void *) ||
      h->page != (uint32_t)sysconf(_SC_PAGESIZE))
    return "it is of another kind of machine";
  if (h->header_size != sizeof *h || h->record_size != heap_copy_record_size())
    return "it is of another build of moonfork";
  if (h->file_size != file_size)
    return file_size < h->file_size ? "it is cut off" : "something is behind its end";
  if (h->meta_size != image_meta_size(h) || h->meta_size == 0 || h->meta_size > file_size)
    return "it is damaged: the sizes of its tables";
  return NULL;
}

/* ---- the tables ---- */

static const char *check_objects(const struct image_view *v) {
  const struct image_header *h = v->header;
  for (uint64_t i = 0; i < h->nobjects; i++) {
    const struct image_object *o = &v->objects[i];
    if (o->path > h->ntexts || o->npath > h->ntexts - o->path || o->nid > IMAGE_ID_MAX ||
        memchr(v->texts + o->path, 0, o->npath))
      return "it is damaged: a library's name";
  }
  return NULL;
}

/* In the order of addresses, so that none covers another. */
static const char *check_parts(const struct image_view *v, uint64_t file_size) {
  const struct image_header *h = v->header;
  uint64_t end = 0, page = h->page, all = h->region + h->zone;
  if (h->region > (uint64_t)1 << 48 || h->zone > (uint64_t)1 << 48 || h->base % page ||
      h->base > (uint64_t)1 << 48 || h->region % page || h->zone % page ||
      h->open > h->region || h->open % page || h->nparts == 0)
    return "it is damaged: the size of its heap";
  for (uint64_t i = 0; i < h->nparts; i++) {
    const struct image_part *p = &v->parts[i];
    uint64_t nbits = p->size / 64;
    if (p->at % page || p->size % page || p->size == 0 || p->at < end || p->at > all ||
        p->size > all - p->at || p->file % page || p->file > file_size ||
        p->size > file_size - p->file || p->bits > file_size ||
        nbits > file_size - p->bits || p->bits % 8 || p->file < h->meta_size ||
        p->bits < h->meta_size)
      return "it is damaged: a part of its heap";
    end = p->at + p->size;
  }
  if (v->parts[0].at != 0 || v->parts[0].size < h->record_size ||
      v->parts[0].size > h->open)
    return "it is damaged: the first part of its heap";
  return NULL;
}

/* n bytes at a distance lie in one part. */
static int is_in_part(const struct image_view *v, uint64_t at, uint64_t n) {
  uint64_t low = 0, high = v->header->nparts;
  while (high - low > 1) {
    uint64_t middle = low + (high - low) / 2;
    if (v->parts[middle].at <= at)
      low = middle;
    else
      high = middle;
  }
  const struct image_part *p = &v->parts[low];
  return at >= p->at && at - p->at <= p->size && n <= p->size - (at - p->at);
}

static const char *check_addresses(const struct image_view *v) {
  const struct image_header *h = v->header;
  enum { WORD = 8, THREAD = 64, TABLE = 56, USERDATA = 32 };
  for (uint64_t i = 0; i < h->npatches; i++) {
    const struct image_patch *p = &v->patches[i];
    if (p->object >= h->nobjects || p->kind > PATCH_HANDLE || p->at % WORD ||
        !is_in_part(v, p->at, WORD))
      return "it is damaged: an address";
  }
  for (uint64_t i = 0; i < h->ntables; i++)
    if (v->tables[i] % WORD || !is_in_part(v, v->tables[i], TABLE))
      return "it is damaged: a table";
  for (uint64_t i = 0; i < h->nhooks; i++)
    if (v->hooks[i] % WORD || !is_in_part(v, v->hooks[i], USERDATA))
      return "it is damaged: a userdata";
  if (h->server % WORD || !is_in_part(v, h->server, THREAD) || h->program % WORD ||
      (h->program && !is_in_part(v, h->program, THREAD)))
    return "it is damaged: its threads";
  return NULL;
}

const char *image_check_meta(const void *meta, uint64_t file_size,
                             struct image_view *ret) {
  const struct image_header *h = meta;
  const char *why = image_check_header(h, file_size);
  if (why)
    return why;
  ret->header = h;
  ret->objects = (const struct image_object *)(h + 1);
  ret->patches = (const struct image_patch *)(ret->objects + h->nobjects);
  ret->parts = (const struct image_part *)(ret->patches + h->npatches);
  ret->tables = (const uint64_t *)(ret->parts + h->nparts);
  ret->hooks = ret->tables + h->ntables;
  ret->texts = (const char *)(ret->hooks + h->nhooks);
  if (image_meta_sum(meta, (size_t)h->meta_size) != h->meta_sum)
    return "it is damaged: the checksum of its tables";
  why = check_objects(ret);
  if (!why)
    why = check_parts(ret, file_size);
  return why ? why : check_addresses(ret);
}

/* ---- sums ---- */

/* Against damage, not against people: who may write the file may write the sum. */
uint64_t image_sum(uint64_t sum, const void *data, size_t n) {
  const unsigned char *p = data;
  for (size_t i = 0; i + 8 <= n; i += 8) {
    uint64_t word;
    memcpy(&word, p + i, sizeof word);
    sum = ((sum << 29 | sum >> 35) ^ word) * UINT64_C(0x9e3779b97f4a7c15);
  }
  return sum;
}

uint64_t image_meta_sum(const void *meta, size_t n) {
  const struct image_header *h = meta;
  const unsigned char *p = meta;
  size_t at = offsetof(struct image_header, meta_sum);
  uint64_t none = 0, sum = image_sum(1, p, at);
  sum = image_sum(sum, &none, sizeof none);
  (void)h;
  return image_sum(sum, p + at + sizeof none, n - at - sizeof none);
}
