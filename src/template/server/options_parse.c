/* Bodies of commands, parsed. Runs in templates and clones, on bytes that the parent
 * wrote; still nothing is believed: a length is compared with what is there, a number
 * with its range, before anybody acts. Whoever breaks the rules gets -EPROTO, and its
 * process a failed command. No memory, no system call. */
#include "template/server/options_parse.h"

#include "base/result.h"
#include "moonfork.h"
#include "wire/option_rows.h"
#include "wire/proto.h"
#include <errno.h>
#include <string.h>

static int is_text(struct text t) {
  return !memchr(t.p, 0, t.n);
}

static int get_text(struct text *to, struct text value, size_t least) {
  if (!is_text(value) || value.n < least)
    return -EPROTO;
  *to = value;
  return 0;
}

static int get_byte(uint8_t *to, struct text value, unsigned max) {
  if (value.n != 1 || (unsigned char)value.p[0] > max)
    return -EPROTO;
  *to = (uint8_t)value.p[0];
  return 0;
}

static int get_stdio(struct options *o, struct text value) {
  if (value.n != 3 || o->has_stdio)
    return -EPROTO;
  for (int i = 0; i < 3; i++) {
    if ((unsigned char)value.p[i] > MF_STDIO_FD)
      return -EPROTO;
    o->stdio[i] = (uint8_t)value.p[i];
    o->nstdio_fds += o->stdio[i] == MF_STDIO_FD;
  }
  o->has_stdio = 1;
  return 0;
}

static int get_env(struct options *o, struct text value, int unset) {
  const char *equals = memchr(value.p, '=', value.n);
  if (!is_text(value) || (unset ? value.n == 0 || equals : !equals || equals == value.p))
    return -EPROTO;
  o->has_env = 1;
  return 0;
}

static int get_tree(struct options *o, struct text value, int fork) {
  if (o->tree || get_byte(&o->tree, value, MF_TREE_NO) < 0)
    return -EPROTO;
  o->ntree_fds = fork && o->tree == MF_TREE_YES;
  return 0;
}

static int get_u32(uint32_t *to, struct text value) {
  struct reader r;
  if (value.n != 4)
    return -EPROTO;
  reader_init(&r, value.p, value.n);
  *to = reader_u32(&r);
  return 0;
}

static int get_connection(struct options *o, struct text value) {
  return get_u32(&o->connection, value) < 0 || o->connection == 0 ? -EPROTO : 0;
}

static int get_step(struct options *o, struct text value) {
  struct reader r;
  if (value.n != 8 || o->has_step)
    return -EPROTO;
  reader_init(&r, value.p, value.n);
  o->step_first = reader_u32(&r);
  o->step_count = reader_u32(&r);
  o->has_step = 1;
  return 0;
}

static int get_reserve(struct options *o, struct text value) {
  struct reader r;
  if (value.n != 8)
    return -EPROTO;
  reader_init(&r, value.p, value.n);
  o->heap_reserve = reader_u64(&r);
  return 0;
}

int options_next_frame(struct text commands, size_t *at, struct frame *ret) {
  size_t left = commands.n - *at;
  const unsigned char *p = (const unsigned char *)commands.p + *at;
  if (left == 0)
    return MF_EOF;
  if (left < FRAME_HEADER_SIZE || frame_decode(ret, p, CMD_SETUP, CMD_LAST) < 0 ||
      ret->length > left - FRAME_HEADER_SIZE)
    return -EPROTO;
  ret->body = p + FRAME_HEADER_SIZE;
  *at += FRAME_HEADER_SIZE + (size_t)ret->length;
  return 0;
}

static int get_commands(struct options *o, struct text value) {
  struct frame f;
  size_t at = 0;
  int r;
  o->commands = value;
  while ((r = options_next_frame(value, &at, &f)) == 0) {
    if (o->has_run || (f.type != CMD_ARG && f.type != CMD_FD && f.type != CMD_RUN))
      return -EPROTO;
    o->has_run = f.type == CMD_RUN && !(f.flags & FRAME_MORE);
    o->ncommand_fds += f.nfds;
  }
  return r < 0 ? r : 0;
}

static int get_option(struct options *o, unsigned tag, struct text v, int fork) {
  const unsigned command = fork ? IN_FORK : IN_SETUP;
  switch (tag) {
#define GET(tag, kind, in, limit, field, to)                                             \
  case OPT_##tag:                                                                        \
    return command & (in) ? get_##kind(&o->to, v, limit) : -EPROTO;
    OPTION_ROWS(GET)
#undef GET
  case OPT_ENV:
    return get_env(o, v, 0);
  case OPT_UNENV:
    return get_env(o, v, 1);
  case OPT_STDIO:
    return get_stdio(o, v);
  case OPT_TREE:
    return get_tree(o, v, fork);
  case OPT_HEAP_RESERVE:
    return fork ? -EPROTO : get_reserve(o, v);
  case OPT_PIPE_LEASH:
    return fork ? -EPROTO : get_byte(&o->pipe_leash, v, 1);
  case OPT_WORDS:
    return fork ? -EPROTO : get_byte(&o->words, v, 1);
  case OPT_COMMANDS:
    return fork ? get_commands(o, v) : -EPROTO;
  case OPT_SLOT:
    return fork ? get_u32(&o->slot, v) : -EPROTO;
  case OPT_SLOT_STEP:
    return fork ? get_step(o, v) : -EPROTO;
  case OPT_INTRODUCE:
    return fork ? get_byte(&o->introduce, v, 1) : -EPROTO;
  case OPT_CONNECTION:
    return fork && !o->connection ? get_connection(o, v) : -EPROTO;
  default:
    return -EPROTO;
  }
}

static int next_option(struct reader *r, unsigned *ret_tag, struct text *ret_value) {
  *ret_tag = reader_u8(r);
  size_t n = reader_u32(r);
  const unsigned char *p = r->ok ? reader_take(r, n) : NULL;
  if (!r->ok)
    return -EPROTO;
  *ret_value = (struct text){p ? (const char *)p : "", n};
  return 0;
}

int options_parse(struct options *ret, const void *body, size_t length, int fork) {
  struct reader r;
  *ret = (struct options){.raw = {length ? body : "", length}, .slot = PROTO_NO_SLOT};
  reader_init(&r, body, length);
  while (reader_left(&r) > 0) {
    unsigned tag;
    struct text value;
    if (ret->commands.p || next_option(&r, &tag, &value) < 0 ||
        get_option(ret, tag, value, fork) < 0)
      return -EPROTO;
  }
  return 0;
}

int options_next_env(const struct options *o, size_t *at, struct env_change *ret) {
  struct reader r;
  reader_init(&r, o->raw.p + *at, o->raw.n - *at);
  while (reader_left(&r) > 0) {
    unsigned tag;
    struct text value;
    if (next_option(&r, &tag, &value) < 0)
      return 0;
    *at = o->raw.n - reader_left(&r);
    if (tag == OPT_ENV || tag == OPT_UNENV) {
      *ret = (struct env_change){value, tag == OPT_UNENV};
      return 1;
    }
  }
  return 0;
}

int options_parse_eval(struct eval *ret, const void *body, size_t length) {
  struct reader r;
  size_t n;
  *ret = (struct eval){0};
  reader_init(&r, body, length);
  ret->argc = reader_u32(&r);
  ret->code.p = reader_str(&r, &ret->code.n);
  if (!ret->code.p)
    return -EPROTO;
  ret->args = r;
  for (uint32_t i = 0; i < ret->argc; i++)
    if (!reader_str(&r, &n))
      return -EPROTO;
  if (r.ok && reader_left(&r) > 0) {
    ret->name.p = reader_str(&r, &ret->name.n);
    if (!ret->name.p || !is_text(ret->name))
      return -EPROTO;
  }
  return r.ok && reader_left(&r) == 0 ? 0 : -EPROTO;
}

int options_parse_setenv(const void *body, size_t length, struct text *ret_name,
                         struct text *ret_value) {
  struct reader r;
  reader_init(&r, body, length);
  ret_name->p = reader_str(&r, &ret_name->n);
  ret_value->p = reader_str(&r, &ret_value->n);
  if (!r.ok || reader_left(&r) > 0 || !ret_name->p || ret_name->n == 0 ||
      !is_text(*ret_name) || memchr(ret_name->p, '=', ret_name->n))
    return -EPROTO;
  return ret_value->p && !is_text(*ret_value) ? -EPROTO : 0;
}

/* "a", "a.b": no part is empty. */
static int is_dotted_name(struct text t) {
  char before = '.';
  for (size_t i = 0; i < t.n; before = t.p[i++])
    if (t.p[i] == '.' && before == '.')
      return 0;
  return before != '.';
}

int options_parse_set(struct set *ret, const void *body, size_t length) {
  struct reader r;
  reader_init(&r, body, length);
  ret->name.p = reader_str(&r, &ret->name.n);
  if (!r.ok || !ret->name.p || !is_text(ret->name) || !is_dotted_name(ret->name))
    return -EPROTO;
  ret->message = (struct text){(const char *)r.p, reader_left(&r)};
  return 0;
}

int options_parse_setup(const void *body, size_t length,
                        const unsigned char **ret_options, size_t *ret_length,
                        unsigned *ret_version, struct build *ret_build) {
  struct reader r;
  reader_init(&r, body, length);
  uint32_t magic = reader_u32(&r);
  unsigned version = reader_u16(&r);
  reader_u16(&r);
  if (!r.ok || magic != PROTO_MAGIC)
    return -EPROTO;
  *ret_version = version;
  if (version != PROTO_VERSION)
    return -EPROTONOSUPPORT;
  if (build_read(&r, ret_build) < 0)
    return -EPROTO;
  *ret_options = r.p;
  *ret_length = reader_left(&r);
  return 0;
}

int options_parse_limit(const void *body, size_t length, size_t at,
                        struct limit_value *ret) {
  enum { ENTRY = 16 };
  struct reader r;
  if (length % ENTRY != 0)
    return -EPROTO;
  if (at >= length / ENTRY)
    return MF_EOF;
  reader_init(&r, (const unsigned char *)body + at * ENTRY, ENTRY);
  ret->which = reader_u32(&r);
  reader_u32(&r);
  ret->value = reader_u64(&r);
  return ret->which < LIMIT_CPU || ret->which > LIMIT_LAST ? -EPROTO : 0;
}
