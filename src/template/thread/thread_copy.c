#include "template/thread/thread_copy.h"

#include "image/pointers.h"
#include "image/relocate.h"
#include "image/selfcheck.h"
#include "template/audit/copyable.h"
#include "template/heap/heap_copy.h"
#include "template/lua/script.h"
#include "template/thread/thread_faults.h"
#include "template/thread/thread_lazy.h"
#include "template/thread/thread_slot.h"
#include <errno.h>
#include <moonfork.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Where the pointers are, as of the last seal: the next clones are copied by it, too. */
static struct {
  struct pointers pointers;
  struct pointers_outside *links; /* into the record of the template's server */
  size_t nlinks;
  struct userdata_list userdata;
  uint64_t seals;          /* of the collector, when it was made; 0: there is none */
  struct picture *picture; /* by that record; NULL: nobody was copied lazily */
} recorded;

static int deny_at(const char *origin, struct server *s, int code, int error,
                   const char *what) {
  char text[512];
  snprintf(text, sizeof text, "the interpreter can't be copied: %s", what);
  failure_record_set_at(origin, &s->failure, code, PHASE_FORK, error, text);
  return -1;
}
#define deny(...) deny_at(ORIGIN, __VA_ARGS__)

static lua_State *main_of(lua_State *L) {
  lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
  lua_State *main = lua_tothread(L, -1);
  lua_pop(L, 1);
  return main;
}

/* Hooks change the interpreter at every fork. */
static int is_known(const struct server *s) {
  return recorded.seals && recorded.seals == s->collector.seals &&
         !script_has_before_fork();
}

struct look {
  const void *base;
  size_t nbytes;
  int result;
  char why[COPYABLE_WHY_MAX];
};

/* Protected. Stack: struct look */
static int l_look(lua_State *L) {
  struct look *look = lua_touserdata(L, 1);
  look->result = copyable_look(L, USERDATA_THREAD, look->base, look->nbytes,
                               &recorded.userdata, look->why);
  return 0;
}

static int look_at_userdata(struct server *s, size_t nbytes) {
  struct look look = {s->heap, nbytes, 0, ""};
  if (script_protect(s, l_look, &look, 0, FAILURE_NOMEM, PHASE_FORK) < 0)
    return -1;
  if (look.result == -ENOMEM)
    return deny(s, FAILURE_NOMEM, ENOMEM, "no memory for the list of its userdata");
  return look.result < 0 ? deny(s, FAILURE_UNSUPPORTED, 0, look.why) : 0;
}

/* The template's interpreter, or the record, is to change. */
static int end_picture(struct server *s) {
  int r = recorded.picture ? picture_end(recorded.picture) : 0;
  if (r < 0)
    return r;
  if (r > 0) { /* the record's bits are the picture's */
    recorded.pointers.bits = NULL;
    recorded.seals = 0;
  }
  recorded.picture = NULL;
  s->before_change = NULL;
  faults_stop(); /* if there is no clone: the heap may move where there is one thread */
  return 0;
}

static int is_link(const struct server *s, const struct pointers_outside *o) {
  return o->kind == IMAGE_LIGHT && o->word - (uint64_t)(uintptr_t)s < sizeof *s;
}

/* Of what leads outside nothing else is needed: each empty table has a word in that list.
 */
static int keep_links(const struct server *s) {
  struct pointers *p = &recorded.pointers;
  size_t n = 0;
  for (size_t i = 0; i < p->noutsides; i++)
    if (is_link(s, &p->outsides[i]))
      p->outsides[n++] = p->outsides[i];
  free(recorded.links);
  recorded.links = malloc((n + 1) * sizeof *recorded.links);
  recorded.nlinks = recorded.links ? n : 0;
  if (!recorded.links)
    return -ENOMEM;
  memcpy(recorded.links, p->outsides, n * sizeof *recorded.links);
  free(p->outsides);
  p->outsides = NULL;
  p->noutsides = 0;
  return 0;
}

int thread_copy_forget(struct server *s) {
  if (end_picture(s) < 0)
    return -ENOMEM;
  pointers_free(&recorded.pointers);
  userdata_free(&recorded.userdata);
  recorded.seals = 0;
  return 0;
}

static int look(struct server *s, lua_State *main) {
  struct heap_shape shape;
  if (is_known(s))
    return 0;
  if (thread_copy_forget(s) < 0)
    return deny(s, FAILURE_NOMEM, ENOMEM, "no memory for what its lazy clones need");
  heap_copy_shape(s->heap, &shape);
  size_t nbytes = (size_t)(shape.region + shape.zone);
  if (look_at_userdata(s, nbytes) < 0)
    return -1;
  if (heap_copy_pointers(s->heap, main, &recorded.pointers) < 0 || keep_links(s) < 0)
    return deny(s, FAILURE_NOMEM, ENOMEM, "no memory for the record of its pointers");
  recorded.seals = s->collector.seals;
  return 0;
}

/* ---- memory ---- */

struct copying {
  char *from, *to;
  intptr_t difference;
};

/* A fault for each 4 KiB would take most of the time of a large copy. */
static void advise_huge(char *at, size_t size) {
#ifdef MADV_HUGEPAGE
  enum { WORTH = 4 << 20 };
  if (size >= WORTH)
    (void)madvise(at, size, MADV_HUGEPAGE);
#endif
}

static int copy_part(void *data, char *at, size_t size) {
  const struct copying *c = data;
  size_t offset = (size_t)(at - c->from);
  if (heap_copy_open(c->to + offset, size) < 0)
    return -ENOMEM;
  advise_huge(c->to + offset, size);
  relocate_copy(c->to + offset, at, size, recorded.pointers.bits + offset / (8 * 64),
                c->difference);
  return 0;
}

static void move_word(void *data, void *word) {
  const struct copying *c = data;
  char *p;
  memcpy(&p, word, sizeof p);
  if (!p)
    return;
  p += c->difference;
  memcpy(word, &p, sizeof p);
}

static struct heap *copy_heap(struct heap *from, struct copying *c) {
  struct heap_shape shape;
  heap_copy_shape(from, &shape);
  c->from = (char *)from;
  c->to = thread_slot_take(from);
  if (!c->to)
    c->to = heap_copy_reserve(&shape, heap_copy_place(from));
  if (!c->to)
    return NULL;
  c->difference = c->to - c->from;
  struct heap *to = (struct heap *)(void *)c->to;
  if (heap_copy_parts(from, copy_part, c) == 0) {
    heap_copy_words(to, move_word, c);
    if (heap_copy_adopt(to, 0) == 0)
      return to;
  }
  heap_copy_drop(c->to, &shape);
  return NULL;
}

/* ---- memory that is copied as it is touched ---- */

/* Stops at more than what is small. */
static int add_size(void *data, char *at, size_t size) {
  size_t *sum = data;
  (void)at;
  *sum += size;
  return *sum > THREAD_SLOT_MAX;
}

static int open_range(void *data, struct heap_range range) {
  const struct copying *c = data;
  return heap_copy_open(c->to + range.at, (size_t)range.size);
}

/* What every clone needs before it runs, and what the template itself writes between two
 * forks. */
static size_t needed_at_once(const struct heap *from, lua_State *main,
                             struct heap_range ret[5]) {
  struct relocate_range used[2];
  relocate_used(main, used);
  ret[0] = (struct heap_range){0, heap_copy_record_size()};
  for (int i = 0; i < 2; i++)
    ret[1 + i] = (struct heap_range){
        (uint64_t)((const char *)used[i].from - (const char *)from), used[i].nbytes};
  heap_copy_tables(from, (uint64_t)(uintptr_t)from, ret + 3);
  return 5;
}

/* 0 or -errno. */
static int fill_lazily(struct server *s, lua_State *main, struct copying *c,
                       struct lazy **ret) {
  struct heap_range at_once[5];
  if (!recorded.picture)
    recorded.picture = picture_new(s->heap, recorded.pointers.bits);
  if (!recorded.picture)
    return -ENOMEM;
  s->before_change = end_picture;
  int r = picture_ranges(recorded.picture, open_range, c);
  return r < 0 ? r
               : lazy_new(recorded.picture, c->to, at_once,
                          needed_at_once(s->heap, main, at_once), ret);
}

/* As copy_heap; *ret_error: why there is none. */
static struct heap *copy_lazily(struct server *s, lua_State *main, struct copying *c,
                                struct lazy **ret, int *ret_error) {
  struct heap_shape shape;
  heap_copy_shape(s->heap, &shape);
  c->from = (char *)s->heap;
  c->to = heap_copy_reserve(&shape, heap_copy_place(s->heap));
  if (!c->to)
    return NULL;
  c->difference = c->to - c->from;
  struct heap *to = (struct heap *)(void *)c->to;
  int r = fill_lazily(s, main, c, ret);
  if (r == 0) {
    heap_copy_words(to, move_word, c);
    r = heap_copy_adopt(to, 0);
  }
  if (r == 0) {
    heap_set_watch(to, lazy_watch, *ret);
    return to;
  }
  lazy_free(*ret);
  *ret = NULL;
  heap_copy_drop(c->to, &shape);
  faults_stop();
  *ret_error = -r;
  return NULL;
}

/* A copy that C code in a clone makes of the process has nobody who puts memory in place
 * for it: the clone gets all of its own before. Nor is there anybody in it who would give
 * the lock back: its heap asks for that at each large block that goes away. */
static void before_fork(void) {
  const struct server *s = server_self();
  if (s && s->lazy)
    heap_touch_all(s->heap);
  picture_lock();
}

static void watch_forks(void) {
  pthread_atfork(before_fork, picture_unlock, picture_unlock);
}

int thread_copy_suits(const struct server *to, int lazy) {
  return to->lazy ? lazy != MF_LAZY_NO : lazy != MF_LAZY_YES || !faults_reason();
}

/* 1: lazily; 0: at once, which is faster for what is small; -1: refused. */
static int choose(struct server *from, int lazy) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  const char *reason = lazy ? faults_reason() : NULL;
  char text[400];
  size_t sum = 0;
  if (!lazy || (reason && lazy == MF_LAZY_TRY))
    return 0;
  if (reason) {
    snprintf(text, sizeof text,
             "option 'lazy': the kernel lets this process serve no page faults: %s; or "
             "let lazy be 'try'",
             reason);
    failure_record_set(&from->failure, FAILURE_UNSUPPORTED, PHASE_FORK, 0, text);
    return -1;
  }
  if (heap_copy_parts(from->heap, add_size, &sum) == 0)
    return 0;
  pthread_once(&once, watch_forks);
  return 1;
}

/* What leads into the record of the template's server leads into that of the clone. */
static void move_to_record(struct server *from, struct server *to,
                           const struct copying *c) {
  for (size_t i = 0; i < recorded.nlinks; i++) {
    uint64_t word =
        (uint64_t)(uintptr_t)to + recorded.links[i].word - (uint64_t)(uintptr_t)from;
    memcpy(c->to + recorded.links[i].offset, &word, sizeof word);
  }
}

/* ---- __clone ---- */

int thread_copy_settle(struct server *s) {
  return script_call_clone(s, (char *)s->heap, s->copied_hooks, s->ncopied_hooks,
                           PHASE_HOOK);
}

static int keep_hooks(struct server *to) {
  size_t size = recorded.userdata.nhooks * sizeof *to->copied_hooks;
  if (size == 0)
    return 0;
  to->copied_hooks = malloc(size);
  if (!to->copied_hooks)
    return -ENOMEM;
  memcpy(to->copied_hooks, recorded.userdata.hooks, size);
  to->ncopied_hooks = recorded.userdata.nhooks;
  return 0;
}

int thread_copy_ahead(const struct server *from, int lazy) {
  size_t sum = 0;
  return from->heap && recorded.seals == from->collector.seals &&
         recorded.userdata.nsockets == 0 && !script_has_before_fork() &&
         ((lazy && !faults_reason()) || heap_copy_parts(from->heap, add_size, &sum) == 0);
}

/* Each has room to grow, of which it uses what it needs. */
static int deny_range(struct server *from) {
  struct heap_shape shape;
  char text[160];
  heap_copy_shape(from->heap, &shape);
  snprintf(text, sizeof text,
           "no range of addresses is free for it (%u GiB): %d clones in threads run here",
           (unsigned)((shape.region + shape.zone) >> 30), (int)from->nthreads);
  return deny(from, FAILURE_LIMIT, ENOMEM, text);
}

int thread_copy(struct server *from, struct server *to, int lazy) {
  struct copying c = {0};
  const char *why = selfcheck_reason();
  if (!why && !from->heap)
    why = "its memory is the host's";
  if (!why)
    why = heap_copy_prepare(from->heap);
  if (why)
    return deny(from, FAILURE_UNSUPPORTED, ENOTSUP, why);
  lua_State *main = main_of(from->L);
  if (main != from->L)
    return deny(from, FAILURE_UNSUPPORTED, ENOTSUP, "it runs a function");
  if (look(from, main) < 0)
    return -1;
  int lazily = choose(from, lazy);
  if (lazily < 0)
    return -1;
  int error = ENOMEM;
  if (lazily)
    to->heap = copy_lazily(from, main, &c, &to->lazy, &error);
  if (!to->heap && (!lazily || lazy == MF_LAZY_TRY))
    to->heap = copy_heap(from->heap, &c);
  if (!to->heap && !c.to)
    return deny_range(from);
  if (!to->heap && error != ENOMEM)
    return deny(from, FAILURE_FORK, error, strerror(error));
  if (!to->heap)
    return deny(from, FAILURE_NOMEM, ENOMEM, "not enough memory");
  if (copyable_settle(&recorded.userdata, c.to) < 0 || keep_hooks(to) < 0) {
    thread_copy_free(to);
    return deny(from, FAILURE_NOMEM, ENOMEM, "not enough memory");
  }
  move_to_record(from, to, &c);
  to->L = (lua_State *)(void *)((char *)main + c.difference);
  to->collector = from->collector;
  to->collector.heap = to->heap;
  relocate_settle(to->L);
  heap_forked(to->heap);
  collector_forked(&to->collector, to->L);
  return 0;
}

void thread_copy_free(struct server *s) {
  if (!s->heap)
    return;
  if (s->lazy) {
    lazy_free(s->lazy);
    heap_free(s->heap);
  } else {
    thread_slot_put(s->heap);
  }
  s->lazy = NULL;
  free(s->copied_hooks);
  s->copied_hooks = NULL;
  s->heap = NULL;
  s->L = NULL;
}
