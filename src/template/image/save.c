/* image_save: see image.h. */
#include "template/image/image.h"

#include "base/result.h"
#include "image/objects.h"
#include "image/pointers.h"
#include "image/relocate.h"
#include "image/selfcheck.h"
#include "socket/socket.h"
#include "template/audit/copyable.h"
#include "template/audit/heap_walk.h"
#include "template/heap/heap_copy.h"
#include "template/image/format.h"
#include "template/image/libraries.h"
#include "template/image/replacement.h"
#include "template/image/static_data.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { CHUNK = 1 << 20 };

struct range {
  uint64_t from, to;
};

struct saving {
  lua_State *L;
  struct heap *heap;
  char *why;
  struct libraries objects;
  uint32_t *number; /* of an object in the file, and 1; 0: it is not there */
  struct pointers pointers;
  struct userdata_list userdata;
  struct range *mapped; /* of this process, in order */
  size_t nmapped;
  /* What the file will hold. */
  struct image_header header;
  struct image_object *object;
  struct image_patch *patches;
  struct image_part *parts;
  char *texts;
  int fd;
  int closes; /* the sockets: s.userdata has them */
};

static int refuse(struct saving *s, const char *what) {
  snprintf(s->why, IMAGE_TEXT_MAX, "%s", what);
  return -EINVAL;
}

/* ---- what leads outside ---- */

static int list_mapped(struct saving *s) {
  FILE *f = fopen("/proc/self/maps", "re");
  char line[4400];
  if (!f) {
    int error = errno;
    snprintf(s->why, IMAGE_TEXT_MAX, "/proc/self/maps can't be read: %s",
             strerror(error));
    return error == ENOMEM || error == EMFILE || error == ENFILE ? -error : -ENOTSUP;
  }
  while (fgets(line, sizeof line, f)) {
    unsigned long long from, to;
    if (sscanf(line, "%llx-%llx", &from, &to) != 2)
      continue;
    struct range *more = realloc(s->mapped, (s->nmapped + 1) * sizeof *more);
    if (!more) {
      fclose(f);
      return -ENOMEM;
    }
    s->mapped = more;
    s->mapped[s->nmapped++] = (struct range){from, to};
  }
  fclose(f);
  return 0;
}

static int is_mapped(const struct saving *s, uint64_t address) {
  size_t low = 0, high = s->nmapped;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (s->mapped[middle].to <= address)
      low = middle + 1;
    else
      high = middle;
  }
  return low < s->nmapped && address >= s->mapped[low].from;
}

/* Its number in the file. */
static int put_object(struct saving *s, const struct library *o, uint32_t *ret) {
  size_t i = (size_t)(o - s->objects.all);
  if (s->number[i]) {
    *ret = s->number[i] - 1;
    return 0;
  }
  char *full = *o->path ? realpath(o->path, NULL) : NULL;
  const char *path = full ? full : o->path;
  size_t n = strlen(path);
  struct image_object *more = realloc(s->object, (s->header.nobjects + 1) * sizeof *more);
  char *texts = realloc(s->texts, s->header.ntexts + n + 1);
  s->object = more ? more : s->object;
  s->texts = texts ? texts : s->texts;
  if (!more || !texts) {
    free(full);
    return -ENOMEM;
  }
  struct image_object *to = &s->object[s->header.nobjects];
  *to = (struct image_object){.base = o->base,
                              .path = (uint32_t)s->header.ntexts,
                              .npath = (uint32_t)n,
                              .nid = o->nid};
  memcpy(to->id, o->id, o->nid);
  memcpy(s->texts + s->header.ntexts, path, n);
  s->header.ntexts += n;
  free(full);
  *ret = (uint32_t)s->header.nobjects++;
  s->number[i] = *ret + 1;
  if (o->nid == 0) {
    snprintf(s->why, IMAGE_TEXT_MAX, "%s has no build id, and can't be read",
             *o->path ? o->path : "the program");
    return -EINVAL;
  }
  return 0;
}

static int put_patch(struct saving *s, const struct pointers_outside *w,
                     const struct library *o, enum image_patch_kind kind) {
  uint32_t number;
  int r = put_object(s, o, &number);
  if (r < 0)
    return r;
  if (kind == PATCH_HANDLE)
    s->object[number].is_module = 1;
  s->patches[s->header.npatches++] =
      (struct image_patch){.at = w->offset,
                           .add = kind == PATCH_HANDLE ? 0 : w->word - o->base,
                           .object = number,
                           .kind = kind};
  return 0;
}

static const luaL_Stream *stream_of(const struct saving *s,
                                    const struct pointers_outside *w) {
  return objects_contents((char *)s->heap + w->object);
}

/* Where the i-th socket's contents are in the heap. */
static uint64_t socket_offset(const struct saving *s, size_t i) {
  const char *contents = objects_contents((char *)s->heap + s->userdata.sockets[i]);
  return (uint64_t)(contents - (const char *)s->heap);
}

static int is_of_socket(const struct saving *s, uint64_t offset) {
  for (size_t i = 0; i < s->userdata.nsockets; i++)
    if (offset - socket_offset(s, i) < sizeof(struct socket))
      return 1;
  return 0;
}

struct name {
  const void *light;
  char path[160];
};

static int l_name(lua_State *L) {
  struct name *n = lua_touserdata(L, 1);
  heap_walk_path_light(L, n->light, n->path, sizeof n->path);
  return 0;
}

/* No finaliser runs: for it, what has been suspended would be any coroutine. */
static int call_quietly(lua_State *L, lua_CFunction f, void *data) {
  int collects = lua_gc(L, LUA_GCISRUNNING);
  if (collects)
    lua_gc(L, LUA_GCSTOP);
  lua_pushcfunction(L, f);
  lua_pushlightuserdata(L, data);
  int status = lua_pcall(L, 1, 0, 0);
  if (status != LUA_OK)
    lua_pop(L, 1);
  if (collects)
    lua_gc(L, LUA_GCRESTART);
  return status == LUA_OK ? 0 : -ENOMEM;
}

/* It leads to memory of C's that is not in the file. */
static int refuse_word(struct saving *s, const struct pointers_outside *w) {
  if (w->kind == IMAGE_CONTEXT || w->kind == IMAGE_CONTINUATION)
    return 0; /* of a call that has ended */
  if (w->object)
    return 0; /* the rules for userdata have allowed it */
  struct name name = {.light = (const void *)(uintptr_t)w->word};
  if (w->kind == IMAGE_LIGHT && call_quietly(s->L, l_name, &name) < 0)
    return -ENOMEM;
  snprintf(s->why, IMAGE_TEXT_MAX,
           "%s 0x%llx%s%s%s: it refers to memory outside of the interpreter, which a C "
           "module has from malloc or the system",
           pointers_kind(w->kind), (unsigned long long)w->word, *name.path ? " (" : "",
           name.path, *name.path ? ")" : "");
  return -EINVAL;
}

static int look_outside(struct saving *s) {
  s->patches = calloc(s->pointers.noutsides + 1, sizeof *s->patches);
  if (!s->patches)
    return -ENOMEM;
  int r = 0;
  for (size_t i = 0; i < s->pointers.noutsides && r == 0; i++) {
    const struct pointers_outside *w = &s->pointers.outsides[i];
    if (w->kind == IMAGE_STREAM && !stream_of(s, w)->closef)
      continue; /* closed: nobody looks at it */
    if (w->kind == IMAGE_USERDATA && is_of_socket(s, w->offset))
      continue;
    const struct library *o = libraries_find(&s->objects, w->word);
    if (o) {
      r = put_patch(s, w, o, PATCH_ADDRESS);
    } else if (w->kind == IMAGE_LIGHT && is_mapped(s, w->word) &&
               (o = libraries_of_handle(&s->objects, w->word))) {
      r = put_patch(s, w, o, PATCH_HANDLE);
    } else if (is_mapped(s, w->word)) {
      r = refuse_word(s, w);
    }
  }
  return r;
}

/* ---- the file ---- */

static int write_all(struct saving *s, const void *data, size_t n, uint64_t at) {
  const char *p = data;
  while (n > 0) {
    ssize_t done = pwrite(s->fd, p, n, (off_t)at);
    if (done < 0 && errno == EINTR)
      continue;
    if (done <= 0)
      return done < 0 ? -errno : -ENOSPC;
    p += done;
    at += (uint64_t)done;
    n -= (size_t)done;
  }
  return 0;
}

static int put_part(void *data, char *at, size_t size) {
  struct saving *s = data;
  struct image_part *more = realloc(s->parts, (s->header.nparts + 1) * sizeof *more);
  if (!more)
    return -ENOMEM;
  s->parts = more;
  s->parts[s->header.nparts++] =
      (struct image_part){.at = (uint64_t)(at - (char *)s->heap), .size = size};
  return 0;
}

static const uint64_t *bits_of(const struct saving *s, uint64_t at) {
  return s->pointers.bits + at / 512;
}

static void place_parts(struct saving *s) {
  struct image_header *h = &s->header;
  h->meta_size = image_meta_size(h);
  uint64_t at = h->meta_size;
  for (size_t i = 0; i < h->nparts; i++) {
    s->parts[i].bits = at;
    at += s->parts[i].size / 64;
  }
  at = (at + h->page - 1) / h->page * h->page;
  for (size_t i = 0; i < h->nparts; i++) {
    s->parts[i].file = at;
    at += s->parts[i].size;
  }
  h->file_size = at;
}

/* Each part is a multiple of the page, and its bits are of 64 bytes. */
static int write_bits(struct saving *s) {
  struct image_header *h = &s->header;
  uint64_t at = h->meta_size, end = s->parts[0].file;
  int r = 0;
  for (size_t i = 0; i < h->nparts && r == 0; i++) {
    const struct image_part *p = &s->parts[i];
    const uint64_t *bits = bits_of(s, p->at);
    h->bits_sum = image_sum(h->bits_sum, bits, (size_t)(p->size / 64));
    r = write_all(s, bits, (size_t)(p->size / 64), p->bits);
    at += p->size / 64;
  }
  for (const uint64_t zero = 0; at < end; at += sizeof zero) /* the file has them */
    h->bits_sum = image_sum(h->bits_sum, &zero, sizeof zero);
  return r;
}

/* In n bytes of the file, of the heap from this offset on. */
static void close_sockets(const struct saving *s, char *room, uint64_t at, size_t n) {
  struct socket closed;
  socket_closed(&closed);
  for (size_t i = 0; i < s->userdata.nsockets; i++) {
    uint64_t from = socket_offset(s, i), end = from + sizeof closed;
    uint64_t low = from > at ? from : at, high = end < at + n ? end : at + n;
    if (low < high)
      memcpy(room + (low - at), (char *)&closed + (low - from), (size_t)(high - low));
  }
}

/* No word of a closed one is an address of the heap. */
static void forget_sockets(struct saving *s) {
  for (size_t i = 0; i < s->userdata.nsockets; i++) {
    uint64_t word = socket_offset(s, i) / sizeof(void *);
    for (size_t k = 0; k < sizeof(struct socket) / sizeof(void *); k++, word++)
      s->pointers.bits[word / 64] &= ~((uint64_t)1 << word % 64);
  }
}

/* The contents as they are at the image's own address. */
static int write_part(struct saving *s, const struct image_part *p, char *room) {
  intptr_t distance = (intptr_t)(s->header.base - (uint64_t)(uintptr_t)s->heap);
  uint64_t node = (uint64_t)(uintptr_t)heap_copy_node(s->heap) + (uint64_t)distance;
  int r = 0;
  for (uint64_t done = 0; done < p->size && r == 0;) {
    size_t n = p->size - done < CHUNK ? (size_t)(p->size - done) : CHUNK;
    relocate_copy(room, (char *)s->heap + p->at + done, n, bits_of(s, p->at + done),
                  distance);
    if (s->pointers.node)
      relocate_node(room, n, bits_of(s, p->at + done), s->pointers.node, distance, node);
    close_sockets(s, room, p->at + done, n);
    s->header.content_sum = image_sum(s->header.content_sum, room, n);
    r = write_all(s, room, n, p->file + done);
    done += n;
  }
  return r;
}

static char *put_bytes(char *to, const void *from, size_t n) {
  if (n)
    memcpy(to, from, n);
  return to + n;
}

static int write_meta(struct saving *s) {
  struct image_header *h = &s->header;
  char *meta = calloc(1, (size_t)h->meta_size), *to = meta;
  if (!meta)
    return -ENOMEM;
  to = put_bytes(to, h, sizeof *h);
  to = put_bytes(to, s->object, h->nobjects * sizeof *s->object);
  to = put_bytes(to, s->patches, h->npatches * sizeof *s->patches);
  to = put_bytes(to, s->parts, h->nparts * sizeof *s->parts);
  to = put_bytes(to, s->pointers.tables, h->ntables * sizeof *s->pointers.tables);
  to = put_bytes(to, s->userdata.hooks, h->nhooks * sizeof *s->userdata.hooks);
  put_bytes(to, s->texts, h->ntexts);
  h->meta_sum = image_meta_sum(meta, (size_t)h->meta_size);
  memcpy(meta, h, sizeof *h);
  int r = write_all(s, meta, (size_t)h->meta_size, 0);
  free(meta);
  return r;
}

/* The kernel would end the process that writes beyond its limit (SIGXFSZ). */
static int is_too_large(uint64_t size) {
  struct rlimit limit;
  return getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
         size > limit.rlim_cur;
}

static int write_contents(struct saving *s) {
  char *room = malloc(CHUNK);
  int r = room ? 0 : -ENOMEM;
  place_parts(s);
  if (r == 0 && is_too_large(s->header.file_size))
    r = -EFBIG;
  if (r == 0 && ftruncate(s->fd, (off_t)s->header.file_size) < 0)
    r = -errno;
  if (r == 0)
    r = write_bits(s);
  for (size_t i = 0; i < s->header.nparts && r == 0; i++)
    r = write_part(s, &s->parts[i], room);
  free(room);
  return r == 0 ? write_meta(s) : r;
}

static int write_file(struct saving *s, const char *path) {
  struct replacement file;
  const char *why = NULL;
  int r = replacement_begin(&file, path, &why);
  s->fd = file.fd;
  if (r == 0)
    r = write_contents(s);
  if (r == 0)
    r = replacement_commit(&file);
  replacement_end(&file);
  if (r < 0 && r != -ENOMEM)
    snprintf(s->why, IMAGE_TEXT_MAX, "%.900s: %s", path, why ? why : strerror(-r));
  return r;
}

/* ---- all of it ---- */

const char *image_obstacle(lua_State *L, struct heap *heap) {
  static char text[IMAGE_TEXT_MAX];
#if LUA_VERSION_NUM != 504
  (void)L, (void)heap, (void)text;
  return "images are there for Lua 5.4 alone";
#else
  if (!heap)
    return "the interpreter has an allocator of its program's";
  const char *why = selfcheck_reason();
  if (why) {
    snprintf(text, sizeof text, "%s", why);
    return text;
  }
  why = heap_copy_prepare(heap);
  return why ? why : relocate_obstacle(L);
#endif
}

struct look {
  struct saving *s;
  int result;
};

static int l_look(lua_State *L) {
  struct look *look = lua_touserdata(L, 1);
  struct saving *s = look->s;
  struct heap_shape shape;
  heap_copy_shape(s->heap, &shape);
  size_t nbytes = (size_t)(shape.region + shape.zone);
  look->result =
      s->closes ? copyable_look_running(L, s->heap, nbytes, &s->userdata, s->why)
                : copyable_look(L, USERDATA_IMAGE, s->heap, nbytes, &s->userdata, s->why);
  return 0;
}

static int check_userdata(struct saving *s) {
  struct look look = {s, 0};
  int r = call_quietly(s->L, l_look, &look);
  if (r < 0)
    return r;
  return look.result == -EPERM ? -EINVAL : look.result;
}

static int check_modules(struct saving *s) {
  struct heap_shape shape;
  heap_copy_shape(s->heap, &shape);
  return static_data_check(s->L, &s->objects, s->heap,
                           (size_t)(shape.region + shape.zone), s->why, IMAGE_TEXT_MAX);
}

static void note_word(void *data, void *word) {
  struct saving *s = data;
  uintptr_t p;
  memcpy(&p, word, sizeof p);
  if (p)
    pointers_add(&s->pointers, word);
}

static int record(struct saving *s) {
  lua_rawgeti(s->L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  lua_State *main = lua_tothread(s->L, -1);
  lua_pop(s->L, 1);
  int r = heap_copy_pointers_node(s->heap, main, &s->pointers);
  if (r == 0) {
    if (s->pointers.node)
      memcpy(heap_copy_node(s->heap), s->pointers.node, RELOCATE_NODE);
    heap_copy_words(s->heap, note_word, s);
    forget_sockets(s);
  }
  return r;
}

static uint64_t distance_of(const struct saving *s, const lua_State *thread) {
  return (uint64_t)((const char *)thread - (const char *)s->heap);
}

static void fill_header(struct saving *s, const struct collector *c,
                        const lua_State *program) {
  struct image_header *h = &s->header;
  struct heap_shape shape;
  heap_copy_shape(s->heap, &shape);
  memcpy(h->magic, IMAGE_MAGIC, sizeof h->magic);
  h->version = IMAGE_VERSION;
  h->order = IMAGE_ORDER;
  h->word = sizeof(void *);
  h->page = (uint32_t)sysconf(_SC_PAGESIZE);
  h->header_size = sizeof *h;
  h->record_size = (uint32_t)heap_copy_record_size();
  h->base = heap_copy_place(s->heap);
  h->region = shape.region;
  h->zone = shape.zone;
  h->open = shape.open;
  h->server = distance_of(s, s->L);
  h->program = program ? distance_of(s, program) : 0;
  h->ntables = s->pointers.ntables;
  h->nhooks = s->userdata.nhooks;
  h->bits_sum = h->content_sum = 1;
  h->collector = *c;
  h->collector.heap = NULL;
  h->collector.after_hook = NULL;
  h->collector.before_finalisers = NULL;
  h->collector.is_alone = NULL;
}

static int prepare(struct saving *s, const struct collector *c,
                   const lua_State *program) {
  int r = libraries_list(&s->objects);
  if (r == 0)
    r = check_modules(s);
  if (r == 0)
    r = check_userdata(s);
  if (r < 0)
    return r;
  s->number = calloc(s->objects.n + 1, sizeof *s->number);
  r = s->number ? record(s) : -ENOMEM;
  if (r == 0)
    r = list_mapped(s);
  if (r == 0)
    r = look_outside(s);
  if (r == 0)
    r = heap_copy_parts(s->heap, put_part, s);
  if (r == 0)
    fill_header(s, c, program);
  return r;
}

int image_save(lua_State *L, struct heap *heap, const struct collector *c,
               lua_State *program, int flags, const char *path,
               char why[IMAGE_TEXT_MAX]) {
  struct saving s = {
      .L = L, .heap = heap, .why = why, .fd = -1, .closes = (flags & IMAGE_RUNNING) != 0};
  *why = '\0';
  const char *obstacle = image_obstacle(L, heap);
  if (obstacle) {
    refuse(&s, obstacle);
    return -ENOTSUP;
  }
  if (!lua_checkstack(L, 16))
    return -ENOMEM;
  int r = prepare(&s, c, program);
  if (r == 0)
    r = write_file(&s, path);
  if (r < 0 && !*why)
    snprintf(why, IMAGE_TEXT_MAX, "%s",
             r == -ENOMEM ? "not enough memory" : strerror(-r));
  static_data_end(L);
  libraries_free(&s.objects);
  pointers_free(&s.pointers);
  userdata_free(&s.userdata);
  free(s.number);
  free(s.mapped);
  free(s.object);
  free(s.patches);
  free(s.parts);
  free(s.texts);
  return r;
}
