/* What a dump says of a link (far.h): its state, and the channels of the near end as it
 * has left them in memory. Runs in the parent. */
#include "parent/process/far.h"

#include "parent/process/far_link.h"

static void dump_channels(const struct link_page *page, FILE *out, int indent) {
  uint32_t n = page->nlisted;
  for (uint32_t i = 0; i < n && i < LINK_PAGE_CHANNELS; i++) {
    uint32_t id = page->channels[i].id;
    fprintf(out, "%*schannel %u%s: %llu bytes may be sent, %llu bytes not read here\n",
            indent, "", id,
            id == LINK_CHANNEL_ROOT     ? " (the template's)"
            : id == LINK_CHANNEL_OUTPUT ? " (standard output)"
                                        : "",
            (unsigned long long)page->channels[i].credit,
            (unsigned long long)page->channels[i].queued);
  }
}

static void dump_age(FILE *out, uint64_t now, uint64_t since) {
  uint64_t ms = since < now ? now - since : 0;
  fprintf(out, "%llu.%03u s", (unsigned long long)(ms / 1000), (unsigned)(ms % 1000));
}

void far_link_dump(const struct far_link *far, FILE *out, int indent) {
  const struct link_page *page = far->page;
  uint64_t now = context_now_ms(far->context);
  fprintf(out, "%*slink: %s", indent, "",
          far->lost ? "lost"
          : far->up ? "connected"
                    : "no agent has greeted");
  if (far->lost && *far->reason)
    fprintf(out, " (%s)", far->reason);
  if (far->lost || !far->up || !page || !page->beat_ms) {
    putc('\n', out);
    return;
  }
  fputs(", last sign of life ", out);
  dump_age(out, now, page->heard_ms);
  fprintf(out, " ago, a beat every %u.%03u s, window %u bytes, %u channels, ",
          page->beat_ms / 1000, page->beat_ms % 1000, page->window, page->nchannels);
  fprintf(out, "%llu bytes wait for the stream; ", (unsigned long long)page->backlog);
  dump_age(out, now, page->written_ms);
  fputs(" ago:\n", out);
  dump_channels(page, out, indent + 2);
}
