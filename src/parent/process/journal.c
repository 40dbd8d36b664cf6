#include "parent/process/journal.h"

#include "parent/process/process.h"
#include "wire/proto.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum kind { BEGIN_DEFAULT, BEGIN_EXEC, FORK, COMMAND };

struct journal {
  struct journal *before;
  unsigned refs;
  enum kind kind;
  size_t narguments, ncode, nentries; /* up to here */
  mf_options options;                 /* BEGIN, FORK; strings and env are ours */
  unsigned type;                      /* COMMAND */
  uint64_t id;
  size_t length;
  unsigned char body[];
};

/* ---- options ---- */

static void free_list(const char *const *list) {
  for (const char *const *e = list; e && *e; e++)
    free((char *)(uintptr_t)*e);
  free((void *)(uintptr_t)list);
}

static void free_options(mf_options *o) {
  free_list(o->env);
  free_list(o->command);
  free((char *)(uintptr_t)o->program);
  free((char *)(uintptr_t)o->cwd);
  free((char *)(uintptr_t)o->lua_path);
  free((char *)(uintptr_t)o->lua_cpath);
  free((char *)(uintptr_t)o->name);
  free((char *)(uintptr_t)o->image);
}

static int copy_string(const char **s) {
  if (!*s)
    return 1;
  *s = strdup(*s);
  return *s != NULL;
}

static int copy_list(const char *const **at) {
  const char *const *from = *at;
  const char **to;
  size_t n = 0;
  int ok = 1;
  *at = NULL;
  if (!from)
    return 1;
  while (from[n])
    n++;
  to = calloc(n + 1, sizeof *to);
  if (!to)
    return 0;
  *at = to;
  for (size_t i = 0; i < n && ok; i++) {
    to[i] = from[i];
    ok = copy_string(&to[i]);
  }
  return ok;
}

/* Own strings instead of the caller's. What fails stays NULL. */
static int own_options(mf_options *o) {
  int ok = copy_string(&o->program);
  ok &= copy_string(&o->cwd);
  ok &= copy_string(&o->lua_path);
  ok &= copy_string(&o->lua_cpath);
  ok &= copy_string(&o->name);
  ok &= copy_string(&o->image);
  ok &= copy_list(&o->env);
  return copy_list(&o->command) & ok;
}

static int leads_to_descriptor(const mf_options *o) {
  for (int i = 0; i < 3; i++)
    if (o->stdio[i].kind == MF_STDIO_FD)
      return 1;
  return 0;
}

/* ---- entries ---- */

static struct journal *entry_new(struct journal *before, enum kind kind, size_t length) {
  struct journal *j = calloc(1, sizeof *j + length);
  if (!j)
    return NULL;
  j->refs = 1;
  j->kind = kind;
  j->length = length;
  j->before = journal_hold(before);
  if (before) {
    j->narguments = before->narguments;
    j->ncode = before->ncode;
    j->nentries = before->nentries;
  }
  j->nentries++;
  return j;
}

static struct journal *entry_with_options(struct journal *before, enum kind kind,
                                          const mf_options *o) {
  struct journal *j;
  if (o && leads_to_descriptor(o))
    return NULL;
  j = entry_new(before, kind, 0);
  if (!j)
    return NULL;
  mf_options_init(&j->options);
  if (o)
    j->options = *o;
  j->options.loop = NULL;
  j->options.timeout_ms = 0;
  if (!own_options(&j->options))
    journal_drop(&j);
  return j;
}

struct journal *journal_new(enum journal_root root, const mf_options *o) {
  return entry_with_options(NULL, root == JOURNAL_EXEC ? BEGIN_EXEC : BEGIN_DEFAULT, o);
}

struct journal *journal_hold(struct journal *j) {
  if (j)
    j->refs++;
  return j;
}

void journal_drop(struct journal **at) {
  struct journal *j = *at, *before;
  *at = NULL;
  for (; j && --j->refs == 0; j = before) {
    before = j->before;
    if (j->kind != COMMAND)
      free_options(&j->options);
    free(j);
  }
}

void journal_batch(struct journal **j, const struct batch *batch) {
  const unsigned char *at = buf_peek(&batch->commands);
  size_t left = buf_size(&batch->commands), rest;
  struct frame f;
  int nfds = 0;
  for (size_t i = 0; i < left; i += FRAME_HEADER_SIZE + f.length) {
    frame_decode(&f, at + i, CMD_SETUP, CMD_LAST); /* our own */
    nfds += f.nfds;
  }
  nfds = batch->fds.n - nfds; /* the handles of standard streams come first */
  for (size_t i = 0; i < left; i += rest) {
    struct process_command c = {0};
    struct fdset fds;
    frame_decode(&f, at + i, CMD_SETUP, CMD_LAST);
    rest = FRAME_HEADER_SIZE + f.length;
    fdset_init(&fds);
    while (fds.n < f.nfds)
      fds.fd[fds.n++] = batch->fds.fd[nfds++]; /* borrowed */
    c.type = f.type;
    c.id = f.id;
    c.body = at + i + FRAME_HEADER_SIZE;
    c.length = f.length;
    c.fds = f.nfds ? &fds : NULL;
    journal_command(j, &c);
  }
}

struct journal *journal_fork(struct journal *j, const mf_options *o) {
  if (!j || !options_act_at_birth(o))
    return journal_hold(j);
  return entry_with_options(j, FORK, o);
}

static int prepares(unsigned type) {
  switch (type) {
  case CMD_REQUIRE:
  case CMD_EVAL:
  case CMD_ARG:
  case CMD_FD:
  case CMD_SETENV:
  case CMD_CHDIR:
  case CMD_LIMIT:
  case CMD_SEAL:
  case CMD_TAKE_ARGS:
  case CMD_SET:
    return 1;
  default:
    return 0;
  }
}

static int is_data(const struct process_command *c) {
  return c->type == CMD_ARG || c->type == CMD_SET;
}

/* A handle is not kept: its other end would wait for ever. */
static int has_room(const struct journal *j, const struct process_command *c) {
  if (c->fds && c->fds->n)
    return 0;
  if (is_data(c))
    return c->length <= JOURNAL_ARGUMENTS_MAX - j->narguments;
  return c->length <= JOURNAL_CODE_MAX - j->ncode;
}

static void copy_body(unsigned char *to, const struct process_command *c) {
  for (size_t i = 0; i < c->npieces; i++) {
    memcpy(to, c->pieces[i].iov_base, c->pieces[i].iov_len);
    to += c->pieces[i].iov_len;
  }
  if (!c->pieces && c->length)
    memcpy(to, c->body, c->length);
}

void journal_command(struct journal **at, const struct process_command *c) {
  struct journal *j, *before = *at;
  if (!before || !prepares(c->type))
    return;
  j = has_room(before, c) ? entry_new(before, COMMAND, c->length) : NULL;
  journal_drop(at);
  if (!j)
    return;
  j->type = c->type;
  j->id = c->id;
  copy_body(j->body, c);
  if (is_data(c))
    j->narguments += c->length;
  else
    j->ncode += c->length;
  *at = j;
}

/* ---- reading ---- */

static int read_entry(const struct journal *j, const struct journal_reader *reader,
                      void *data) {
  struct process_command c = {
      .type = j->type, .id = j->id, .body = j->body, .length = j->length};
  switch (j->kind) {
  case BEGIN_DEFAULT:
  case BEGIN_EXEC:
    return reader->begin(data, j->kind == BEGIN_EXEC ? JOURNAL_EXEC : JOURNAL_DEFAULT,
                         &j->options);
  case FORK:
    return reader->fork(data, &j->options);
  default:
    return reader->command(data, &c);
  }
}

int journal_read(const struct journal *last, const struct journal_reader *reader,
                 void *data) {
  size_t n = last->nentries;
  const struct journal **order = malloc(n * sizeof(struct journal *)), *j = last;
  int r = 0;
  if (!order)
    return -ENOMEM;
  for (size_t i = n; i-- > 0; j = j->before)
    order[i] = j;
  for (size_t i = 0; i < n && !r; i++)
    r = read_entry(order[i], reader, data);
  free(order);
  return r;
}
