/* libFuzzer: arbitrary bytes as header and tables of an image (src/template/image). What
 * names the format, and the checksum, are made right, so that every number behind them is
 * looked at. What must hold: no crash, and in what is accepted each number leads to where
 * the loader may go. */
#undef NDEBUG /* its asserts are the test */
#include "template/heap/heap_copy.h"
#include "template/image/format.h"
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { META_MAX = 1 << 20 };

static int is_in_a_part(const struct image_view *v, uint64_t at, uint64_t n) {
  for (uint64_t i = 0; i < v->header->nparts; i++)
    if (at >= v->parts[i].at && at + n <= v->parts[i].at + v->parts[i].size)
      return 1;
  return 0;
}

static void look_at(const struct image_view *v) {
  const struct image_header *h = v->header;
  uint64_t end = 0;
  for (uint64_t i = 0; i < h->nobjects; i++) {
    const struct image_object *o = &v->objects[i];
    char *path = strndup(v->texts + o->path, o->npath); /* sanitizers look */
    assert(path && strlen(path) == o->npath && o->nid <= sizeof o->id);
    free(path);
  }
  for (uint64_t i = 0; i < h->nparts; i++) {
    const struct image_part *p = &v->parts[i];
    assert(p->size > 0 && p->at >= end && p->at + p->size <= h->region + h->zone);
    assert(p->file >= h->meta_size && p->file + p->size <= h->file_size);
    assert(p->bits >= h->meta_size && p->bits + p->size / 64 <= h->file_size);
    end = p->at + p->size;
  }
  assert(v->parts[0].size >= h->record_size && h->open <= h->region);
  for (uint64_t i = 0; i < h->npatches; i++)
    assert(v->patches[i].object < h->nobjects && is_in_a_part(v, v->patches[i].at, 8));
  for (uint64_t i = 0; i < h->ntables; i++)
    assert(is_in_a_part(v, v->tables[i], 8));
  for (uint64_t i = 0; i < h->nhooks; i++)
    assert(is_in_a_part(v, v->hooks[i], 32));
  assert(is_in_a_part(v, h->server, 8));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct image_view view;
  struct image_header h;
  if (size < sizeof h)
    return 0;
  memcpy(&h, data, sizeof h);
  memcpy(h.magic, IMAGE_MAGIC, sizeof h.magic);
  h.version = IMAGE_VERSION;
  h.order = IMAGE_ORDER;
  h.word = sizeof(void *);
  h.page = (uint32_t)sysconf(_SC_PAGESIZE);
  h.header_size = sizeof h;
  h.record_size = (uint32_t)heap_copy_record_size();
  h.meta_size = image_meta_size(&h);
  (void)image_check_header(&h, h.file_size); /* also where the tables are too long */
  if (h.meta_size == 0 || h.meta_size > META_MAX)
    return 0;
  size_t n = (size_t)h.meta_size;
  unsigned char *meta = calloc(1, n);
  assert(meta);
  memcpy(meta, data, size < n ? size : n);
  memcpy(meta, &h, sizeof h);
  h.meta_sum = image_meta_sum(meta, n);
  memcpy(meta, &h, sizeof h);
  if (!image_check_meta(meta, h.file_size, &view))
    look_at(&view);
  free(meta);
  return 0;
}
