/* image_load: see image.h. Nothing in the file is believed before it is
 * compared: who may write it is asked first, for what it holds is executed. */
#include "template/image/image.h"

#include "image/relocate.h"
#include "template/heap/heap_copy.h"
#include "template/image/format.h"
#include "template/image/libraries.h"
#include "template/image/rehash.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct loading {
  char *why;
  int fd;
  uint64_t size;
  void *meta;
  struct image_view view;
  struct heap_shape shape;
  char *base; /* of the heap here; NULL: not yet */
  struct libraries objects;
  struct place { /* of an object of the file's, in this process */
    uint64_t base;
    void *handle;
  } * places;
  int has_moved; /* an object has */
};

static int refuse(struct loading *l, const char *why) {
  snprintf(l->why, IMAGE_TEXT_MAX, "%s", why);
  return -EINVAL;
}

/* ---- the file ---- */

/* Who may write to a folder without the sticky bit may put other files of its owner's in
 * the place of this one. The group of this process may: where each user has a group of
 * their own, an ordinary mkdir (umask 002) makes such folders. */
static int others_may_write(const struct stat *st) {
  if (st->st_mode & S_ISVTX)
    return 0;
  return (st->st_mode & S_IWOTH) || (st->st_mode & S_IWGRP && st->st_gid != getegid());
}

/* Its owner may do so whatever its mode is. */
static int check_folder(struct loading *l, const char *path) {
  const char *slash = strrchr(path, '/');
  char folder[PATH_MAX] = ".";
  struct stat st;
  if (slash)
    snprintf(folder, sizeof folder, "%.*s", (int)(slash - path) + 1, path);
  if (stat(folder, &st) < 0)
    return -errno;
  if (st.st_uid != geteuid() && st.st_uid != 0) {
    snprintf(
        l->why, IMAGE_TEXT_MAX,
        "its folder %.800s belongs to another user, who could replace it, and it would "
        "be executed: the folder must belong to the user who loads it or to root",
        folder);
    return -EINVAL;
  }
  if (!others_may_write(&st))
    return 0;
  snprintf(
      l->why, IMAGE_TEXT_MAX,
      "others may write to its folder %.800s: they could replace it, and it would be "
      "executed (chmod go-w, or set the sticky bit)",
      folder);
  return -EINVAL;
}

/* That of the name, and that of the file where the name is a link. */
static int check_folders(struct loading *l, const char *path) {
  char *full = realpath(path, NULL);
  int r = check_folder(l, path);
  if (r == 0 && full)
    r = check_folder(l, full);
  free(full);
  return r;
}

static int open_file(struct loading *l, const char *path) {
  struct stat st;
  l->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (l->fd < 0 || fstat(l->fd, &st) < 0)
    return -errno;
  if (!S_ISREG(st.st_mode))
    return refuse(l, "it is no file");
  if (st.st_uid != geteuid() && st.st_uid != 0)
    return refuse(l,
                  "it belongs to another user: it would be executed, so it must belong "
                  "to the user who loads it or to root");
  if (st.st_mode & (S_IWGRP | S_IWOTH))
    return refuse(l,
                  "others may write to it: it would be executed, so only its owner may "
                  "(chmod go-w)");
  l->size = (uint64_t)st.st_size;
  return check_folders(l, path);
}

static int read_all(struct loading *l, void *to, size_t n, uint64_t at) {
  char *p = to;
  while (n > 0) {
    ssize_t done = pread(l->fd, p, n, (off_t)at);
    if (done < 0 && errno == EINTR)
      continue;
    if (done <= 0)
      return done < 0 ? -errno : refuse(l, "it is cut off");
    p += done;
    at += (uint64_t)done;
    n -= (size_t)done;
  }
  return 0;
}

static int read_meta(struct loading *l) {
  struct image_header h;
  if (l->size < sizeof h)
    return refuse(l, "it is no image");
  int r = read_all(l, &h, sizeof h, 0);
  const char *wrong = r == 0 ? image_check_header(&h, l->size) : NULL;
  if (r < 0 || wrong)
    return r < 0 ? r : refuse(l, wrong);
  l->meta = malloc((size_t)h.meta_size);
  if (!l->meta)
    return -ENOMEM;
  r = read_all(l, l->meta, (size_t)h.meta_size, 0);
  wrong = r == 0 ? image_check_meta(l->meta, l->size, &l->view) : NULL;
  return r < 0 || !wrong ? r : refuse(l, wrong);
}

static const void *map_file(struct loading *l, uint64_t at, size_t n) {
  void *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, l->fd, (off_t)at);
  return p == MAP_FAILED ? NULL : p;
}

static int compare_sum(struct loading *l, uint64_t from, uint64_t to, uint64_t wanted,
                       const char *why) {
  enum { CHUNK = 64 << 20 }; /* whole pages */
  uint64_t page = l->view.header->page, sum = 1;
  for (uint64_t at = from / page * page; at < to; at += CHUNK) {
    size_t n = (size_t)(to - at < CHUNK ? to - at : CHUNK);
    const char *data = map_file(l, at, n);
    if (!data)
      return -ENOMEM;
    size_t skip = at < from ? (size_t)(from - at) : 0;
    sum = image_sum(sum, data + skip, n - skip);
    munmap((void *)(uintptr_t)data, n);
  }
  return sum == wanted ? 0 : refuse(l, why);
}

static int verify_bits(struct loading *l) {
  const struct image_header *h = l->view.header;
  return compare_sum(l, h->meta_size, l->view.parts[0].file, h->bits_sum,
                     "it is damaged: the checksum of its tables of pointers");
}

static int verify(struct loading *l) {
  const struct image_header *h = l->view.header;
  int r = verify_bits(l);
  return r < 0 ? r
               : compare_sum(l, l->view.parts[0].file, h->file_size, h->content_sum,
                             "it is damaged: the checksum of its contents");
}

static int has_part(const struct loading *l, struct heap_range r) {
  for (uint64_t i = 0; i < l->view.header->nparts; i++) {
    const struct image_part *p = &l->view.parts[i];
    if (r.size == 0 || (r.at == p->at && r.size == p->size))
      return 1;
  }
  return 0;
}

/* The heap's own record, before anything is mapped. */
static int check_record(struct loading *l) {
  const struct image_header *h = l->view.header;
  struct heap_range tables[2];
  struct heap *record = malloc(h->record_size);
  if (!record)
    return -ENOMEM;
  int r = read_all(l, record, h->record_size, l->view.parts[0].file);
  l->shape = (struct heap_shape){h->region, h->zone, h->open};
  int sound = r == 0 && heap_copy_is_sound(record, h->base, &l->shape);
  if (sound) {
    heap_copy_tables(record, h->base, tables);
    sound = has_part(l, tables[0]) && has_part(l, tables[1]);
  }
  free(record);
  if (r < 0)
    return r;
  return sound ? 0 : refuse(l, "it is damaged: the record of its heap");
}

/* ---- programs and libraries ---- */

static int is_same(const struct library *o, const struct image_object *wanted) {
  return o->nid > 0 && o->nid == wanted->nid && memcmp(o->id, wanted->id, o->nid) == 0;
}

static const struct library *find(const struct loading *l, const struct image_object *o) {
  for (size_t i = 0; i < l->objects.n; i++)
    if (is_same(&l->objects.all[i], o))
      return &l->objects.all[i];
  return NULL;
}

static int another_build(struct loading *l, const char *path) {
  snprintf(l->why, IMAGE_TEXT_MAX,
           "%.800s is another build than the one that it was made with",
           *path ? path : "the template program");
  return -EINVAL;
}

static int find_object(struct loading *l, uint64_t i) {
  const struct image_object *o = &l->view.objects[i];
  char path[OBJECT_PATH_MAX];
  snprintf(path, sizeof path, "%.*s", (int)o->npath, l->view.texts + o->path);
  const struct library *here = find(l, o);
  if (!here && !*path)
    return another_build(l, path);
  if (!here || o->is_module) {
    l->places[i].handle = dlopen(path, RTLD_NOW);
    if (!l->places[i].handle) {
      const char *error = dlerror();
      snprintf(l->why, IMAGE_TEXT_MAX, "%.1000s", error ? error : path);
      return -EINVAL;
    }
    libraries_free(&l->objects);
    int r = libraries_list(&l->objects);
    if (r < 0)
      return r;
    here = find(l, o);
  }
  if (!here)
    return another_build(l, path);
  l->places[i].base = here->base;
  l->has_moved |= here->base != o->base;
  return 0;
}

static int find_objects(struct loading *l) { /* the header was read */
  uint64_t n = l->view.header ? l->view.header->nobjects : 0;
  l->places = calloc((size_t)n + 1, sizeof *l->places);
  int r = l->places ? libraries_list(&l->objects) : -ENOMEM;
  for (uint64_t i = 0; i < n && r == 0; i++)
    r = find_object(l, i);
  return r;
}

/* ---- the heap ---- */

static int map_part(struct loading *l, const struct image_part *p) {
  char *to = l->base + p->at;
  return mmap(to, (size_t)p->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, l->fd,
              (off_t)p->file) == to
             ? 0
             : -ENOMEM;
}

/* Its addresses are taken: read, and moved on the way. */
static int copy_part(struct loading *l, const struct image_part *p) {
  intptr_t distance = (intptr_t)((uint64_t)(uintptr_t)l->base - l->view.header->base);
  size_t n = (size_t)p->size;
  uint64_t *bits = malloc(n / 64 + 64);
  const void *data = map_file(l, p->file, n);
  int r = bits && data ? heap_copy_open(l->base + p->at, n) : -ENOMEM;
  if (r == 0)
    r = read_all(l, bits, n / 64, p->bits);
  if (r == 0)
    relocate_copy(l->base + p->at, data, n, bits, distance);
  if (data)
    munmap((void *)(uintptr_t)data, n);
  free(bits);
  return r;
}

static int place_heap(struct loading *l) {
  const struct image_header *h = l->view.header;
  l->base = heap_copy_reserve(&l->shape, h->base);
  if (!l->base) {
    snprintf(l->why, IMAGE_TEXT_MAX,
             "there is no address space for it (a limit on it, or a sanitizer)");
    return -ENOTSUP;
  }
  int same = (uint64_t)(uintptr_t)l->base == h->base;
  int r = same ? 0 : verify_bits(l);
  for (uint64_t i = 0; i < h->nparts && r == 0; i++)
    r = same ? map_part(l, &l->view.parts[i]) : copy_part(l, &l->view.parts[i]);
  if (r < 0)
    return r;
  r = heap_copy_adopt((struct heap *)(void *)l->base, same);
  return r == -EINVAL ? refuse(l, "it is damaged: the table of its large blocks") : r;
}

/* Words that are right stay shared with the file. */
static void patch(const struct loading *l) {
  for (uint64_t i = 0; i < l->view.header->npatches; i++) {
    const struct image_patch *p = &l->view.patches[i];
    const struct place *place = &l->places[p->object];
    if (p->kind == PATCH_ADDRESS && place->base == l->view.objects[p->object].base)
      continue;
    uint64_t word = p->kind == PATCH_HANDLE ? (uint64_t)(uintptr_t)place->handle
                                            : place->base + p->add;
    memcpy(l->base + p->at, &word, sizeof word);
  }
}

static uint64_t *copy_hooks(const struct loading *l) {
  size_t size = (size_t)l->view.header->nhooks * sizeof *l->view.hooks;
  uint64_t *hooks = malloc(size + 1);
  if (hooks)
    memcpy(hooks, l->view.hooks, size);
  return hooks;
}

static int load(struct loading *l, const char *path, int flags,
                struct image_loaded *ret) {
  int r = open_file(l, path);
  if (r == 0)
    r = read_meta(l);
  if (r == 0 && flags & IMAGE_VERIFY)
    r = verify(l);
  if (r == 0)
    r = check_record(l);
  if (r == 0)
    r = find_objects(l);
  if (r == 0)
    r = place_heap(l);
  if (r != 0)
    return r;
  uint64_t *hooks = copy_hooks(l);
  if (!hooks)
    return -ENOMEM;
  patch(l);
  uint64_t program = l->view.header->program;
  void *suspended = program ? l->base + program : NULL;
  *ret =
      (struct image_loaded){.L = (lua_State *)(void *)(l->base + l->view.header->server),
                            .program = suspended,
                            .heap = (struct heap *)(void *)l->base,
                            .collector = l->view.header->collector,
                            .hooks = hooks,
                            .nhooks = (size_t)l->view.header->nhooks};
  return l->has_moved
             ? rehash_tables(ret->L, l->base, l->view.tables, l->view.header->ntables)
             : 0;
}

/* Of a load that failed the addresses stay reserved: the process ends. */
static int load_and_tidy(const char *path, int flags, struct image_loaded *ret,
                         char why[IMAGE_TEXT_MAX]) {
  struct loading l = {.why = why, .fd = -1};
  *why = '\0';
  int r = load(&l, path, flags, ret);
  if (r < 0 && !*why)
    snprintf(why, IMAGE_TEXT_MAX, "%s", strerror(-r));
  if (l.fd >= 0)
    close(l.fd);
  free(l.meta);
  free(l.places);
  libraries_free(&l.objects);
  return r;
}

/* Is the memory of this Lua laid out as the image's? That was seen when it was saved, by
 * the same build: the Lua that its functions belong to is among the objects. */
int image_load(const char *path, int flags, struct image_loaded *ret,
               char why[IMAGE_TEXT_MAX]) {
  if (LUA_VERSION_NUM != 504) {
    snprintf(why, IMAGE_TEXT_MAX, "images are there for Lua 5.4 alone");
    return -ENOTSUP;
  }
  return load_and_tidy(path, flags, ret, why);
}
