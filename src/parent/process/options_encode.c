/* mf_options as bytes for SETUP and FORK (src/wire/proto.h). Runs in the parent. */
#include "base/sized.h"
#include "parent/private.h"
#include "parent/process/process.h"
#include "wire/link.h"
#include "wire/option_rows.h"

#include <errno.h>
#include <string.h>

void mf_options_init(mf_options *o) {
  mf_options init = MF_OPTIONS_INIT;
  if (o)
    *o = init;
}

/* "NAME=value" or "NAME". The template takes anything else for a broken protocol. */
static int has_nameless(const char *const *env) {
  for (; env && *env; env++)
    if (**env == '\0' || **env == '=')
      return 1;
  return 0;
}

static int is_byte(int value, int last) {
  return value >= 0 && value <= last;
}

static int is_text(const char *text, size_t least) {
  return !text || strlen(text) >= least;
}

static int is_within(size_t value, size_t min, size_t max) {
  return value >= min && value <= max;
}

int options_load(const mf_options *from, mf_options *o) {
  int i;
  mf_options_init(o);
  if (!from)
    return 0;
  if (sized_load(o, sizeof *o, from) < 0)
    return MF_EINVAL;
  o->new_session = o->new_session != 0;
#define REFUSE(tag, kind, in, limit, field, to)                                          \
  if (!is_##kind(o->field, limit))                                                       \
    return MF_EINVAL;
  OPTION_ROWS(REFUSE)
#undef REFUSE
  if (!is_byte(o->tree, MF_TREE_NO) || has_nameless(o->env) ||
      (o->beat_ms && !is_within(o->beat_ms, LINK_BEAT_MIN_MS, LINK_BEAT_MAX_MS)) ||
      (o->window && !is_within(o->window, LINK_WINDOW_MIN, LINK_WINDOW_MAX)) ||
      (o->lazy && !o->isolation) || o->spares_min > o->spares_max)
    return MF_EINVAL;
  for (i = 0; i < 3; i++)
    if (!is_byte(o->stdio[i].kind, MF_STDIO_FD))
      return MF_EINVAL;
  return 0;
}

static int put_text(struct buf *out, unsigned tag, const char *text) {
  int r = buf_put_u8(out, tag);
  return r ? r : buf_put_str(out, text, strlen(text));
}

static int put_byte(struct buf *out, unsigned tag, int value) {
  unsigned char v = (unsigned char)value;
  int r = buf_put_u8(out, tag);
  return r ? r : buf_put_str(out, &v, 1);
}

static int put_u64(struct buf *out, unsigned tag, uint64_t value) {
  int r = buf_put_u8(out, tag);
  if (!r)
    r = buf_put_u32(out, 8);
  return r ? r : buf_put_u64(out, value);
}

static int put_stdio(const mf_options *o, struct buf *out, struct fdset *fds) {
  unsigned char kinds[3];
  int i, fd, r, any = 0;
  for (i = 0; i < 3; i++) {
    kinds[i] = (unsigned char)o->stdio[i].kind;
    any |= kinds[i];
    if (kinds[i] != MF_STDIO_FD)
      continue;
    fd = fd_dup(o->stdio[i].fd);
    if (fd < 0)
      return fd == -EBADF ? MF_EINVAL : fd;
    fdset_push(fds, fd);
  }
  if (!any)
    return 0;
  r = buf_put_u8(out, OPT_STDIO);
  return r ? r : buf_put_str(out, kinds, 3);
}

/* An executed process has its leash already. */
static int put_tree(const mf_options *o, int setup, struct buf *out, struct fdset *fds) {
  if (o->tree == MF_TREE_INHERIT)
    return 0;
  if (o->tree == MF_TREE_YES && !setup) {
    int leash = mf_leash_fd();
    if (leash >= 0)
      leash = fd_dup(leash);
    if (leash < 0)
      return leash;
    fdset_push(fds, leash);
  }
  return put_byte(out, OPT_TREE, o->tree);
}

int options_act_at_birth(const mf_options *o) {
#define ACTS(tag, kind, in, limit, field, to) || (IN_FORK & (in) && o->field)
  return o && ((o->env && *o->env) || o->stdio[0].kind || o->stdio[1].kind ||
               o->stdio[2].kind || o->tree OPTION_ROWS(ACTS));
#undef ACTS
}

/* What it writes without setup is what options_act_at_birth tells of; test_options
 * compares. */
int options_encode(const mf_options *o, int setup, struct buf *out, struct fdset *fds) {
  const unsigned command = setup ? IN_SETUP : IN_FORK;
  const char *const *e;
  int r;
  if (!o)
    return 0;
  r = put_tree(o, setup, out, fds);
  if (!r)
    r = put_stdio(o, out, fds);
  for (e = o->env; !r && e && *e; e++)
    r = put_text(out, strchr(*e, '=') ? OPT_ENV : OPT_UNENV, *e);
#define PUT(tag, kind, in, limit, field, to)                                             \
  if (!r && command & (in) && o->field)                                                  \
    r = put_##kind(out, OPT_##tag, o->field);
  OPTION_ROWS(PUT)
#undef PUT
  if (!r && setup && o->heap_reserve)
    r = put_u64(out, OPT_HEAP_RESERVE, o->heap_reserve);
  return r == -ENOMEM ? MF_ENOMEM : r;
}
