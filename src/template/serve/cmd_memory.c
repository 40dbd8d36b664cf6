/* CMD_MEMORY: what a process costs. The system's figures come from /proc, those of Lua
 * from the heap: our own directly, a clone's from its slot, which its heap keeps up to
 * date. Runs in templates and clones before run. */
#include "template/serve/commands.h"

#include "os/proc.h"
#include "template/thread/thread_lazy.h"
#include <errno.h>

/* The system counts processes: of a thread it is what its interpreter has taken. */
static int measure_thread(const struct server *s, struct proc_memory *ret) {
  struct heap_stats stats;
  heap_stats(s->heap, &stats);
  uint64_t own = stats.touched + stats.big;
  if (s->lazy)
    own -= lazy_missing(s->lazy);
  *ret = (struct proc_memory){.pss = own, .uss = own, .rss = own};
  return 0;
}

/* The parent vouches for the pid: it is its child, or was until it reads the answer. */
static int measure(struct server *s, const struct command *c, struct proc_memory *ret,
                   uint64_t *ret_lua) {
  struct reader r;
  if (c->id == 0) {
    *ret_lua = server_lua_live(s);
    return s->thread ? measure_thread(s, ret) : proc_memory(0, ret);
  }
  reader_init(&r, c->body, c->length);
  pid_t pid = (pid_t)reader_u32(&r);
  struct slot *slot = slots_at(&s->slots, reader_u32(&r));
  if (!r.ok || pid <= 0)
    return -EINVAL;
  if (slot)
    *ret_lua = slot->lua_live;
  return proc_memory(pid, ret);
}

int cmd_memory(struct server *s, struct command *c) {
  unsigned char body[48];
  struct buf b = {.data = body, .cap = sizeof body, .max = sizeof body};
  struct proc_memory m = {0};
  uint64_t lua = 0;
  int r = measure(s, c, &m, &lua);
  buf_put_u32(&b, (uint32_t)-r);
  buf_put_u32(&b, 0);
  buf_put_u64(&b, m.pss);
  buf_put_u64(&b, m.uss);
  buf_put_u64(&b, m.rss);
  buf_put_u64(&b, m.shared);
  buf_put_u64(&b, lua);
  connection_answer(&s->conn, ANS_MEMORY, c->id, body, sizeof body);
  return 0;
}
