/* SIGUSR2: what an end of a link is doing, for people, on its standard error. */
#include "remote/mux_channel.h"

#include "wire/build.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void dump(const struct mux *m, FILE *out) {
  uint64_t silent_ms = mux_now_ms(m) - m->heard_ms;
  fprintf(out, "moonfork-remote %s, %s, process %d: ", build_own.version,
          m->is_agent ? "agent" : "near end", (int)getpid());
  if (!m->greeted)
    fputs("the other end has not greeted, ", out);
  fprintf(out,
          "last sign of life %.3f s ago, window %u bytes, %u channels, %zu bytes wait "
          "for the stream\n",
          (double)silent_ms / 1000, m->window, m->nchannels, mux_backlog(m));
  list_each(it, &m->channels) {
    const struct mux_channel *c = list_entry(it, struct mux_channel, link);
    fprintf(out, "  channel %u:", c->id);
    if (c->sends)
      fprintf(out, " %llu bytes may be sent%s,", (unsigned long long)c->credit,
              !c->is_paused   ? ""
              : m->is_crowded ? " when descriptors or the stream have room"
                              : " when the stream has room");
    else
      fputs(" nothing more is sent,", out);
    if (c->receives)
      fprintf(out, " %zu bytes wait to be read here%s\n", c->queued,
              c->ended ? " before its end" : "");
    else
      fputs(" nothing more comes\n", out);
  }
}

static void on_signal(uv_signal_t *s, int signum) {
  const struct mux *m = s->data;
  char *text = NULL;
  size_t n = 0;
  FILE *out = open_memstream(&text, &n);
  if (!out)
    return;
  dump(m, out);
  if (fclose(out) == 0 && n)
    (void)!write(2, text, n);
  free(text);
}

void mux_dump_on_signal(struct mux *m) {
  static uv_signal_t handle;
  handle.data = m;
  if (uv_signal_init(m->turn->loop, &handle) == 0)
    uv_signal_start(&handle, on_signal, SIGUSR2);
}
