/* Runs in the parent. A process of another build is refused by both sides: it executes
 * nothing, and here is the one who can tell a person about it. */
#include "parent/process/greeting.h"

#include "base/origin.h"
#include "parent/common/program.h"
#include "parent/process/process.h"
#include <errno.h>
#include <stdio.h>

int greeting_read(const struct frame *f, struct greeting *ret) {
  struct reader r;
  reader_init(&r, f->body, f->length);
  uint32_t magic = reader_u32(&r);
  *ret = (struct greeting){.version = reader_u16(&r)};
  ret->tree = reader_u16(&r) & HELLO_TREE;
  if (!r.ok || magic != PROTO_MAGIC)
    return ORIGINAL(-EPROTO);
  if (ret->version != PROTO_VERSION)
    return 0;
  ret->executed = reader_u64(&r);
  return r.ok && build_read(&r, &ret->build) == 0 ? 0 : ORIGINAL(-EPROTO);
}

int greeting_is_ours(const struct greeting *g) {
  return g->version == PROTO_VERSION && build_is_own(&g->build);
}

const char *greeting_name(const struct mf_process *p, char *room) {
  if (!p->program)
    return !p->taken_up  ? "the template"
           : p->greeting ? "whoever has the other end of that socket"
                         : "the process that was taken up";
  snprintf(room, GREETING_NAME_MAX,
           p->far ? "the command '%s'" : "the template program %s", p->program);
  return room;
}

const char *greeting_hint(const struct mf_process *p) {
  return p->is_itself ? "; it is this program itself, whose main() has to call "
                        "mf_template_check before anything else"
                      : "";
}

char *greeting_complaint(const struct greeting *g, const struct mf_process *p) {
  static const char advice[] = "; both have to be of one build (option program or "
                               "MOONFORK_TEMPLATE names another template program)";
  char room[GREETING_NAME_MAX], *text = NULL;
  const char *name = greeting_name(p, room);
  int n;
  if (g->version != PROTO_VERSION)
    n = asprintf(
        &text,
        "%s is of another moonfork: it speaks version %u of the protocol, and %s "
        "(moonfork %s for Lua %s) speaks version %d%s",
        name, g->version, program_own(), build_own.version, build_own.lua, PROTO_VERSION,
        advice);
  else
    n = asprintf(&text,
                 "%s is moonfork %s for Lua %s, but %s is moonfork %s for Lua %s%s", name,
                 g->build.version, g->build.lua, program_own(), build_own.version,
                 build_own.lua, advice);
  return n < 0 ? NULL : text;
}
