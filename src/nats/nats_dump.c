#include "nats/nats_dump.h"

#include "nats/caller_private.h"
#include "nats/node_private.h"
#include <inttypes.h>
#include <string.h>

static const uint64_t MS = 1000000;

static void put_seconds(FILE *out, uint64_t ms) {
  fprintf(out, "%" PRIu64 ".%03u s", ms / 1000, (unsigned)(ms % 1000));
}

static uint64_t now_ms(void) {
  return uv_hrtime() / MS;
}

static void put_since(FILE *out, const char *label, uint64_t since_ms) {
  fprintf(out, ", %s ", label);
  put_seconds(out, now_ms() - since_ms);
}

static void put_engine(FILE *out, const struct engine *e) {
  static const char *const names[] = {[ENGINE_CONNECTING] = "CONNECTING",
                                      [ENGINE_UP] = "UP",
                                      [ENGINE_DOWN] = "DOWN",
                                      [ENGINE_CLOSED] = "CLOSED"};
  char servers[256] = "";
  struct engine_stats s;
  engine_get_stats(e, &s);
  engine_put_servers(e, servers, sizeof servers);
  fprintf(out, "engine %s %s", servers, names[engine_state(e)]);
  if (engine_reason(e)[0])
    fprintf(out, " (%s)", engine_reason(e));
  fprintf(out, ", attempt %" PRIu64 ", %zu bytes not written", s.connects, s.unwritten);
}

/* In quotes; nothing that a terminal takes for something else. */
static void put_text(FILE *out, const char *text) {
  putc('"', out);
  for (const unsigned char *c = (const unsigned char *)text; *c; c++)
    putc(*c < ' ' || *c >= 127 || *c == '"' ? '?' : *c, out);
  putc('"', out);
}

/* ---- far pools ---- */

struct nats_listed *far_listed(mf_far *far) {
  return &far->listed;
}

/* The oldest of those that nobody was told of yet. */
static const struct far_call *oldest_of(const struct list *calls, unsigned *ret_n) {
  const struct far_call *oldest = NULL;
  *ret_n = 0;
  list_each(it, calls) {
    const struct far_call *c = list_entry(it, struct far_call, link);
    if (c->state == CALL_LEFT)
      continue;
    ++*ret_n;
    if (!oldest || c->begun_ns < oldest->begun_ns)
      oldest = c;
  }
  return oldest;
}

static void put_calls(FILE *out, const struct list *calls, const char *what) {
  unsigned n;
  const struct far_call *c = oldest_of(calls, &n);
  fprintf(out, ", %u %s", n, what);
  if (!c)
    return;
  put_since(out, "the oldest since", c->begun_ns / MS);
  if (minheap_holds(&c->deadline))
    fprintf(out, ", its timeout in %.3f s",
            (double)((int64_t)(c->deadline.key - now_ms())) / 1000);
}

static void put_far_node(FILE *out, const struct room_node *n) {
  const struct node_beat *b = &n->beat;
  const struct far_node *node = n->user;
  fputs("    node ", out);
  put_text(out, b->name);
  fprintf(out, " (%s): heard ", b->node);
  put_seconds(out, now_ms() - n->heard_ms);
  fprintf(out, " ago, holds %u of %u, %u workers, room for %u of ours", b->held,
          b->window, b->workers, n->most > n->out ? n->most - n->out : 0);
  put_calls(out, &node->calls, "calls with it");
  fprintf(out, "%s%s\n", b->draining ? ", draining" : "",
          b->failed ? ", its pool has failed" : "");
}

void far_dump(const mf_far *far, FILE *out) {
  fputs("  far pool of ", out);
  put_text(out, far->subject);
  fputs(": ", out);
  put_engine(out, far->engine);
  fprintf(out, ", %u nodes", far->room.n);
  put_calls(out, &far->waiting, "calls wait");
  fprintf(out, ", %zu with nodes, %zu given up there, %zu questions about jobs",
          far->nsent, far->nleft, far->jobs ? job_caller_pending(far->jobs) : 0);
  fprintf(out, "%s\n",
          far->closing    ? ", closing"
          : far->draining ? ", drain under way"
                          : "");
  list_each(it, &far->room.nodes)
      put_far_node(out, list_entry(it, struct room_node, link));
}

/* ---- nodes ---- */

struct nats_listed *node_listed(mf_node *node) {
  return &node->listed;
}

static size_t count(const struct list *head) {
  size_t n = 0;
  list_each(it, head) n++;
  return n;
}

void node_dump(const mf_node *node, FILE *out) {
  static const char *const phases[] = {[NODE_OPEN] = "open",
                                       [NODE_WANTED] = "drain asked for",
                                       [NODE_TOLD] = "callers know of the drain",
                                       [NODE_QUIET] = "no more calls come",
                                       [NODE_LAST] = "last answers are sent",
                                       [NODE_OVER] = "drained"};
  fputs("  node ", out);
  put_text(out, node->name);
  fputs(" of ", out);
  put_text(out, node->subject);
  fprintf(out, ": %s, ", phases[node->phase]);
  put_engine(out, node->engine);
  put_since(out, "last beat", node->beat_at);
  fprintf(out, " ago, holds %u of %u, %u calls of %zu callers", node_held(node),
          node->window, node->held, count(&node->callers));
  if (!node->jobs) {
    putc('\n', out);
    return;
  }
  fprintf(out, ", %zu jobs", job_worker_held(node->jobs));
  if (job_worker_reason(node->jobs)[0])
    fprintf(out, " (%s)", job_worker_reason(node->jobs));
  putc('\n', out);
  job_worker_dump(node->jobs, out);
}
