#include "template/server/report.h"

#include "base/append.h"
#include "os/proc.h"
#include "template/server/signals.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

enum { LEVELS_MAX = 20, REPORT_MAX = 1024 };

static void (*fill)(struct report *ret);

static void put(const char *text, const char *end) {
  ssize_t n;
  while (text < end && ((n = write(STDERR_FILENO, text, (size_t)(end - text))) > 0 ||
                        (n < 0 && errno == EINTR)))
    text += n > 0 ? n : 0;
}

static char *put_figure(char *at, char *end, const char *label, uint64_t n,
                        const char *unit) {
  at = append_text(at, end, label);
  at = append_number(at, end, n);
  return append_text(at, end, unit);
}

/* ---- the figures: async-signal-safe, reads the records as they stand ---- */

static char *put_state(char *at, char *end, const struct report *r) {
  at = put_figure(at, end, "moonfork: template ", (uint64_t)getpid(), "");
  if (r->name[0]) {
    at = append_text(at, end, " ");
    at = append_text(at, end, r->name);
  }
  at = append_text(at, end, ": ");
  at = append_text(at, end, r->phase);
  at = append_text(at, end, r->command ? ", executes " : ", waits for commands");
  if (r->command)
    at = append_text(at, end, r->command);
  if (r->user_since_ns)
    at = put_figure(at, end, ", in user code for ",
                    (proc_now_ns() - r->user_since_ns) / 1000000, " ms");
  at = put_figure(at, end, ", ", r->executed, " commands executed");
  at = put_figure(at, end, ", ", r->nforks, " forks");
  return append_text(at, end, "\n");
}

static char *put_heap(char *at, char *end, const struct heap *heap) {
  struct heap_stats h;
  if (!heap)
    return append_text(at, end, "moonfork:   heap of the host\n");
  heap_stats(heap, &h);
  at = put_figure(at, end, "moonfork:   heap: ", h.live / 1024, " KiB live");
  at = put_figure(at, end, ", ", h.sealed / 1024, " KiB sealed");
  at = put_figure(at, end, ", ", h.frozen / 1024, " KiB frozen");
  at = put_figure(at, end, ", ", h.touched / 1024, " KiB touched");
  at = put_figure(at, end, " of ", h.reserved / 1024, " KiB\n");
  return at;
}

static char *put_collector(char *at, char *end, const struct collector *c) {
  static const char *const modes[] = {[COLLECTOR_GENERATIONAL] = "generational",
                                      [COLLECTOR_INCREMENTAL] = "incremental",
                                      [COLLECTOR_STOP] = "stopped"};
  at = append_text(at, end, "moonfork:   collector: ");
  at = append_text(at, end, modes[c->gc]);
  at = append_text(at, end, c->sealed ? ", sealed" : ", not sealed");
  at = append_text(at, end, c->dirty ? ", Lua has run since" : "");
  at = put_figure(at, end, ", ", c->base / 1024, " KiB after the last full collection\n");
  return at;
}

/* ---- the stack: at the next instruction of Lua ---- */

static void write_stack(lua_State *L, lua_Debug *ar) {
  char line[LUA_IDSIZE + 200];
  lua_Debug level;
  struct report r;
  (void)ar;
  lua_sethook(L, NULL, 0, 0);
  fill(&r);
  if (!r.user_since_ns) /* too late: that code has ended */
    return;
  for (int i = 0; i < LEVELS_MAX && lua_getstack(L, i, &level); i++) {
    lua_getinfo(L, "Snl", &level); /* these three allocate nothing and so can't raise */
    const char *kind = *level.namewhat ? level.namewhat : level.what;
    char at[16] = "";
    if (level.currentline > 0) /* C has no lines */
      snprintf(at, sizeof at, "%d:", level.currentline);
    int n =
        snprintf(line, sizeof line, "moonfork:   %s:%s in %s%s%.80s\n", level.short_src,
                 at, kind, level.name ? " " : "", level.name ? level.name : "");
    put(line, line + (n < (int)sizeof line ? n : (int)sizeof line - 1));
  }
}

/* As lua.c does at an interrupt. */
static char *ask_for_stack(char *at, char *end, const struct report *r) {
  if (!r->user_since_ns || !r->L)
    return at;
  if (lua_gethook(r->L) && lua_gethook(r->L) != write_stack)
    return append_text(at, end,
                       "moonfork:   a debug hook is set, so there is no stack\n");
  lua_sethook(r->L, write_stack, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
  return append_text(at, end, "moonfork:   the Lua stack, when Lua runs again:\n");
}

/* ---- the signal ---- */

static void on_signal(int signum) {
  int error = errno;
  char text[REPORT_MAX], *at = text, *end = text + sizeof text;
  struct report r;
  (void)signum;
  fill(&r);
  at = put_state(at, end, &r);
  at = put_heap(at, end, r.heap);
  at = put_collector(at, end, r.collector);
  at = ask_for_stack(at, end, &r);
  put(text, at);
  errno = error;
}

void report_start(void (*filler)(struct report *ret)) {
  fill = filler;
  signals_set_own(SIGUSR2, on_signal);
}
