/* mf_options as bytes for SETUP and FORK (src/wire/proto.h). Runs in the parent. */
#include "base/sized.h"
#include "parent/private.h"
#include "parent/process/process.h"
#include "wire/link.h"

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

static int is_one_of(int value, int last) {
  return value >= 0 && value <= last;
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
  if (!is_one_of(o->gc, MF_GC_STOP) || !is_one_of(o->leash, MF_LEASH_KEEP) ||
      !is_one_of(o->handles, MF_HANDLES_CLOSE) ||
      (o->beat_ms && !is_within(o->beat_ms, LINK_BEAT_MIN_MS, LINK_BEAT_MAX_MS)) ||
      (o->window && !is_within(o->window, LINK_WINDOW_MIN, LINK_WINDOW_MAX)) ||
      !is_one_of(o->dumpable, MF_DUMPABLE_NO) || !is_one_of(o->tree, MF_TREE_NO) ||
      !is_one_of(o->isolation, MF_ISOLATION_THREAD) || !is_one_of(o->lazy, MF_LAZY_TRY) ||
      (o->lazy && !o->isolation) || o->spares_min > o->spares_max ||
      has_nameless(o->env) || (o->image && !*o->image) || !is_one_of(o->image_verify, 1))
    return MF_EINVAL;
  for (i = 0; i < 3; i++)
    if (!is_one_of(o->stdio[i].kind, MF_STDIO_FD))
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
  return o && ((o->env && *o->env) || o->cwd || o->stdio[0].kind || o->stdio[1].kind ||
               o->stdio[2].kind || o->leash || o->handles || o->dumpable ||
               o->new_session || o->tree || o->name || o->isolation);
}

/* What it writes without setup is what options_act_at_birth tells of; test_options
 * compares. */
int options_encode(const mf_options *o, int setup, struct buf *out, struct fdset *fds) {
  const char *const *e;
  int r;
  if (!o)
    return 0;
  r = put_tree(o, setup, out, fds);
  if (!r)
    r = put_stdio(o, out, fds);
  if (!r && o->name)
    r = put_text(out, OPT_NAME, o->name);
  for (e = o->env; !r && e && *e; e++)
    r = put_text(out, strchr(*e, '=') ? OPT_ENV : OPT_UNENV, *e);
  if (!r && o->cwd)
    r = put_text(out, OPT_CWD, o->cwd);
  if (!r && o->new_session)
    r = put_byte(out, OPT_SESSION, 1);
  if (!r && o->leash != MF_LEASH_KILL)
    r = put_byte(out, OPT_LEASH, o->leash);
  if (!r && o->handles != MF_HANDLES_INHERIT)
    r = put_byte(out, OPT_HANDLES, o->handles);
  if (!r && o->dumpable != MF_DUMPABLE_INHERIT)
    r = put_byte(out, OPT_DUMPABLE, o->dumpable);
  if (!setup && !r && o->isolation == MF_ISOLATION_THREAD)
    r = put_byte(out, OPT_THREAD, 1);
  if (!setup && !r && o->isolation == MF_ISOLATION_THREAD && o->lazy != MF_LAZY_NO)
    r = put_byte(out, OPT_LAZY, o->lazy);
  if (!setup)
    return r == -ENOMEM ? MF_ENOMEM : r;
  if (!r && o->lua_path)
    r = put_text(out, OPT_PATH, o->lua_path);
  if (!r && o->lua_cpath)
    r = put_text(out, OPT_CPATH, o->lua_cpath);
  if (!r && o->gc != MF_GC_GENERATIONAL)
    r = put_byte(out, OPT_GC, o->gc);
  if (!r && o->image)
    r = put_text(out, OPT_IMAGE, o->image);
  if (!r && o->image_verify)
    r = put_byte(out, OPT_IMAGE_VERIFY, 1);
  if (!r && o->heap_reserve)
    r = put_u64(out, OPT_HEAP_RESERVE, o->heap_reserve);
  return r == -ENOMEM ? MF_ENOMEM : r;
}
