/* Children and their ends. Runs in templates and in clones that are templates themselves.
 *
 *   LIVE --(inspect: a zombie)--> DEAD --(EXITED queued)--> REPORTED --(ACK)--> reaped
 *     \______________(nobody listens: reaped at once)______________________/
 *
 * SIGCHLD names one child and swallows the others that ended meanwhile, so after one
 * everybody has to be looked at. With a few children that is cheap and done at once; with
 * thousands the named one is looked at and the round of all waits until the last round's
 * cost is a small part of the time, 50 ms at most. */
#include "template/reap.h"

#include "base/result.h"
#include "moonfork.h"
#include "template/inspect.h"
#include "wire/proto.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum {
  FEW = 64,
  SCAN_SHARE = 8,
  SCAN_MAX_NS = 45 * 1000 * 1000,
  REPORT_SIZE = 36 /* without text */
};

void children_init(struct children *c) {
  memset(c, 0, sizeof *c);
}

void children_forked(struct children *c) {
  children_init(c); /* the storage is the template's, and not even mapped here */
}

/* ---- the table: an array, a free list, two hashes by chains ---- */

static uint32_t hash(uint64_t key, uint32_t nbuckets) {
  return (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (nbuckets - 1);
}

static void link_child(struct children *c, uint32_t at) {
  struct child *child = &c->items[at];
  uint32_t *id = &c->by_id[hash(child->id, c->nbuckets)];
  uint32_t *pid = &c->by_pid[hash((uint64_t)child->pid, c->nbuckets)];
  child->next_id = *id;
  child->next_pid = *pid;
  *id = *pid = at + 1;
}

static void unlink_child(struct children *c, uint32_t at) {
  struct child *child = &c->items[at];
  uint32_t *p = &c->by_id[hash(child->id, c->nbuckets)];
  while (*p != at + 1)
    p = &c->items[*p - 1].next_id;
  *p = child->next_id;
  p = &c->by_pid[hash((uint64_t)child->pid, c->nbuckets)];
  while (*p != at + 1)
    p = &c->items[*p - 1].next_pid;
  *p = child->next_pid;
}

/* Memory that clones don't get: the template writes to it after each fork, which would copy
 * a page each time. */
static void *own_memory(size_t size) {
  void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED)
    return NULL;
#ifdef MADV_DONTFORK
  (void)madvise(p, size, MADV_DONTFORK);
#endif
  return p;
}

static size_t table_size(uint32_t cap) {
  return cap * (sizeof(struct child) + 2 * sizeof(uint32_t));
}

static int grow(struct children *c) {
  uint32_t cap = c->cap ? c->cap * 2 : 64;
  struct child *items = own_memory(table_size(cap));
  if (!items)
    return -ENOMEM;
  if (c->cap) {
    memcpy(items, c->items, c->cap * sizeof *items);
    munmap(c->items, table_size(c->cap));
  }
  c->items = items;
  c->by_id = (uint32_t *)(items + cap);
  c->by_pid = c->by_id + cap;
  c->nbuckets = cap;
  for (uint32_t i = 0; i < c->cap; i++)
    if (items[i].state != CHILD_FREE)
      link_child(c, i);
  for (uint32_t i = cap; i-- > c->cap;) {
    items[i].next_id = c->free;
    c->free = i + 1;
  }
  c->cap = cap;
  return 0;
}

int children_reserve(struct children *c, uint64_t lua_live, uint32_t *ret_slot) {
  int r = c->free ? 0 : grow(c);
  if (r < 0)
    return r;
  *ret_slot = slots_get(&c->slots);
  if (*ret_slot != SLOT_NONE)
    slots_at(&c->slots, *ret_slot)->lua_live = lua_live;
  return 0;
}

void children_cancel(struct children *c, uint32_t slot) {
  if (slot != SLOT_NONE)
    slots_put(&c->slots, slot);
}

void children_add(struct children *c, uint64_t id, pid_t pid, uint32_t slot, int leash) {
  uint32_t at = c->free - 1;
  struct child *child = &c->items[at];
  c->free = child->next_id;
  *child = (struct child){
      .id = id, .pid = pid, .slot = slot, .state = CHILD_LIVE, .leash = (uint8_t)leash};
  link_child(c, at);
  c->n++;
  c->nlive++;
}

static void drop_child(struct children *c, struct child *child) {
  uint32_t at = (uint32_t)(child - c->items);
  unlink_child(c, at);
  children_cancel(c, child->slot);
  c->n--;
  c->nlive -= child->state == CHILD_LIVE;
  c->ndead -= child->state == CHILD_DEAD;
  child->state = CHILD_FREE;
  child->next_id = c->free;
  c->free = at + 1;
}

struct child *children_find(struct children *c, uint64_t id) {
  if (!c->nbuckets)
    return NULL;
  uint32_t at = c->by_id[hash(id, c->nbuckets)];
  while (at && c->items[at - 1].id != id)
    at = c->items[at - 1].next_id;
  return at ? &c->items[at - 1] : NULL;
}

static struct child *find_pid(struct children *c, pid_t pid) {
  if (!c->nbuckets)
    return NULL;
  uint32_t at = c->by_pid[hash((uint64_t)pid, c->nbuckets)];
  while (at && c->items[at - 1].pid != pid)
    at = c->items[at - 1].next_pid;
  return at ? &c->items[at - 1] : NULL;
}

/* ---- looking ---- */

static void look_at(struct children *c, struct child *child) {
  if (child->state != CHILD_LIVE)
    return;
  int r = inspect_child(child->pid, &child->end);
  if (r == MF_AGAIN)
    return;
  if (r < 0) {
    drop_child(c, child); /* user code reaped it; the parent finds out by itself */
    return;
  }
  child->state = CHILD_DEAD;
  c->nlive--;
  c->ndead++;
}

static void look_at_all(struct children *c) {
  uint64_t start = proc_now_ns();
  for (uint32_t i = 0; i < c->cap; i++)
    look_at(c, &c->items[i]);
  uint64_t end = proc_now_ns(), pause = (end - start) * SCAN_SHARE;
  c->next_scan_ns = end + (pause > SCAN_MAX_NS ? SCAN_MAX_NS : pause);
  c->scan_due = 0;
}

void children_look(struct children *c, const pid_t *hints, int nhints) {
  for (int i = 0; i < nhints; i++) {
    struct child *child = find_pid(c, hints[i]);
    if (child)
      look_at(c, child);
  }
  if (nhints)
    c->scan_due = 1;
  if (c->scan_due && (c->nlive <= FEW || proc_now_ns() >= c->next_scan_ns))
    look_at_all(c);
}

int children_delay_ms(const struct children *c) {
  if (!c->scan_due)
    return -1;
  uint64_t now = proc_now_ns();
  return now >= c->next_scan_ns ? 0 : (int)((c->next_scan_ns - now) / 1000000) + 1;
}

/* ---- reports ---- */

static uint32_t read_last_words(const struct children *c, const struct child *child,
                                const char **ret_text) {
  if (child->slot == SLOT_NONE)
    return 0;
  uint32_t n = slots_at(&c->slots, child->slot)->text_size;
  *ret_text = slots_text(&c->slots, child->slot);
  return n > SLOT_TEXT_MAX ? SLOT_TEXT_MAX : n;
}

static int put_report(const struct child *child, const char *text, uint32_t n,
                      struct connection *conn, unsigned char *body, size_t size) {
  struct buf b = {.data = body, .cap = size, .max = size};
  buf_put_u32(&b, (uint32_t)child->pid);
  buf_put_u32(&b, (uint32_t)child->end.status);
  buf_put_u64(&b, child->end.utime_us);
  buf_put_u64(&b, child->end.stime_us);
  buf_put_u64(&b, child->end.maxrss_bytes);
  buf_put_str(&b, n ? text : NULL, n);
  return connection_answer(conn, ANS_EXITED, child->id, body, buf_size(&b));
}

/* With much text it needs another page of the stack, which each fork makes a copy of. */
__attribute__((noinline)) static int report_words(const struct child *child, const char *text,
                                                  uint32_t n, struct connection *conn) {
  unsigned char body[REPORT_SIZE + SLOT_TEXT_MAX];
  return put_report(child, text, n, conn, body, sizeof body);
}

static int report(struct children *c, struct child *child, struct connection *conn) {
  unsigned char body[REPORT_SIZE];
  const char *text = NULL;
  uint32_t n = read_last_words(c, child, &text);
  return n ? report_words(child, text, n, conn)
           : put_report(child, NULL, 0, conn, body, sizeof body);
}

int children_report(struct children *c, struct connection *conn) {
  for (uint32_t i = 0; i < c->cap && c->ndead > 0; i++) {
    struct child *child = &c->items[i];
    if (child->state != CHILD_DEAD)
      continue;
    if (buf_size(&conn->out) > CONNECTION_OUT_HIGH)
      return 0;
    int r = report(c, child, conn);
    if (r < 0)
      return r;
    child->state = CHILD_REPORTED;
    c->ndead--;
  }
  return 0;
}

static void reap(struct children *c, struct child *child) {
  pid_t r;
  do
    r = waitpid(child->pid, NULL, WNOHANG); /* user code may have reaped it */
  while (r < 0 && errno == EINTR);
  drop_child(c, child);
}

void children_acknowledged(struct children *c, uint64_t id) {
  struct child *child = children_find(c, id);
  if (child && child->state == CHILD_REPORTED)
    reap(c, child);
}

void children_reap_unheard(struct children *c) {
  for (uint32_t i = 0; i < c->cap && c->n > c->nlive; i++)
    if (c->items[i].state >= CHILD_DEAD)
      reap(c, &c->items[i]);
}

void children_pull_leash(struct children *c) {
  for (uint32_t i = 0; i < c->cap; i++) {
    const struct child *child = &c->items[i];
    if (child->state == CHILD_LIVE && child->leash != MF_LEASH_KEEP)
      proc_kill(-1, child->pid, child->leash == MF_LEASH_TERM ? SIGTERM : SIGKILL);
  }
}
