/* CMD_LIMIT. Runs in templates and clones before run.
 *
 * A limit on descriptors may be lower than what is held, which is a way to have a process
 * open nothing more. So what it will need for its leash is opened before.
 *
 * RLIMIT_AS counts addresses, and the Lua heap reserves far more of them than it uses. So
 * "as" is taken as what the process may use: the reservation is cut to what the limit
 * leaves, and the system's limit is set to the value plus what is mapped and reserved but
 * unused. The heap can't pass the value, because its region ends there, and mappings
 * outside of it can't, because the system counts them. */
#include "template/serve/commands.h"

#include "base/result.h"
#include "template/fork/clone.h"
#include "template/thread/thread_clone.h"
#include "template/thread/thread_copy.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static const struct {
  int resource;
  const char *name;
} limits[LIMIT_LAST + 1] = {
#define LIMIT_ROW(part, text) [LIMIT_##part] = {RLIMIT_##part, text},
    PROTO_LIMITS(LIMIT_ROW)
#undef LIMIT_ROW
};

/* Bytes of address space in use, or 0 where the system does not tell. */
static uint64_t mapped_bytes(void) {
  unsigned long long pages = 0;
  FILE *f = fopen("/proc/self/statm", "re");
  if (!f)
    return 0;
  if (fscanf(f, "%llu", &pages) != 1)
    pages = 0;
  fclose(f);
  return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t reserved_unused(const struct heap *h) {
  struct heap_stats st;
  heap_stats(h, &st);
  return st.reserved > st.touched ? st.reserved - st.touched : 0;
}

/* Bytes of address space that nobody can use as they are; and the stacks of clones in
 * threads that have ended, each behind its guard: the C library keeps them for the next
 * ones. */
static uint64_t closed_bytes(void) {
  unsigned long long from, to, sum = 0, guarded = 0;
  char line[1024], rights[5];
  FILE *f = fopen("/proc/self/maps", "re");
  while (f && fgets(line, sizeof line, f)) {
    if (sscanf(line, "%llx-%llx %4s", &from, &to, rights) != 3)
      continue;
    int is_closed = strncmp(rights, "---", 3) == 0;
    if (is_closed || (from == guarded && to - from == THREAD_STACK_SIZE &&
                      strcmp(rights, "rw-p") == 0))
      sum += to - from;
    guarded = is_closed ? to : 0;
  }
  if (f)
    fclose(f);
  return sum;
}

/* For each thread that it had the C library has reserved room, which stays. */
static uint64_t reserved_for_threads(const struct server *s) {
  uint64_t closed = s->await_threads ? closed_bytes() : 0, own = reserved_unused(s->heap);
  return closed > own ? closed - own : 0;
}

/* What RLIMIT_AS has to be so that value bytes are usable. */
static uint64_t fit_heap(struct server *s, uint64_t value) {
  if (!s->heap)
    return value;
  (void)thread_copy_forget(s);
  heap_drop_mirrors(s->heap);
  heap_release_zone(s->heap);
  uint64_t other = reserved_for_threads(s);
  uint64_t unused = reserved_unused(s->heap) + other, mapped = mapped_bytes();
  uint64_t used = mapped > unused ? mapped - unused : 0;
  heap_release_reserve(s->heap, value > used ? (size_t)(value - used) : 0);
  unused = reserved_unused(s->heap) + other;
  return value > UINT64_MAX - unused ? value : value + unused;
}

static int set_limit(struct server *s, const struct limit_value *v) {
  struct rlimit limit;
  uint64_t value = v->value;
  if (value != UINT64_MAX && v->which == LIMIT_AS)
    value = fit_heap(s, value);
  if (v->which == LIMIT_NOFILE)
    leash_save(&s->leash);
  limit.rlim_cur = limit.rlim_max = value == UINT64_MAX ? RLIM_INFINITY : (rlim_t)value;
  /* SIGXCPU comes at the soft limit; at the hard one it is SIGKILL, which says nothing.
   */
  if (v->which == LIMIT_CPU && value != UINT64_MAX)
    limit.rlim_max++;
  if (setrlimit(limits[v->which].resource, &limit) < 0)
    return -errno;
  if (v->which == LIMIT_NOFILE) {
    s->limits_nofile = value != UINT64_MAX;
    s->nofile = value;
  }
  return 0;
}

int cmd_limit(struct server *s, struct command *c) {
  struct limit_value v;
  int r;
  for (size_t i = 0; (r = options_parse_limit(c->body, c->length, i, &v)) == 0; i++) {
    if (v.which == LIMIT_AS && v.value != UINT64_MAX && clone_await_threads(s) > 0) {
      server_fail_with(
          s, FAILURE_UNSUPPORTED, PHASE_LIMIT, ENOTSUP,
          "limit as: clones of the process run in threads, and share its "
          "address space; set it before they are forked, or after their end");
      return 0;
    }
    r = set_limit(s, &v);
    if (r < 0) {
      server_fail_with(s, FAILURE_INVAL, PHASE_LIMIT, -r, "limit %s: %s",
                       limits[v.which].name, strerror(-r));
      return 0;
    }
  }
  return r < 0 ? server_malformed(s, "malformed limit command") : 0;
}
