/* Functions of moonfork.h that prepare a process: commands, arguments, handles, limits.
 * Runs in the parent. */
#include "parent/api/api.h"
#include "parent/private.h"
#include "parent/process/process.h"
#include "wire/proto.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int queue(mf_process *p, struct process_command *c) {
  return api_result(process_event(p, &(struct event){EV_COMMAND, .command = c}));
}

static int queue_bytes(mf_process *p, unsigned type, const void *body, size_t length) {
  struct process_command c = {.type = type, .body = body, .length = length};
  int r = process_check_unfinished(p);
  return r ? r : queue(p, &c);
}

int mf_require(mf_process *p, const char *module) {
  if (!module || !*module)
    return MF_EINVAL;
  return queue_bytes(p, CMD_REQUIRE, module, strlen(module));
}

int mf_eval(mf_process *p, const char *code, size_t length, int argc,
            const char *const *argv, const size_t *lengths) {
  return mf_eval_named(p, NULL, code, length, argc, argv, lengths);
}

int mf_eval_named(mf_process *p, const char *name, const char *code, size_t length,
                  int argc, const char *const *argv, const size_t *lengths) {
  struct buf body;
  int r = process_check_unfinished(p), i;
  if (r)
    return r;
  if (!code || argc < 0 || (argc && !argv))
    return MF_EINVAL;
  buf_init(&body, PROTO_PAYLOAD_MAX);
  r = buf_put_u32(&body, (uint32_t)argc);
  if (!r)
    r = buf_put_str(&body, code, length);
  for (i = 0; !r && i < argc; i++)
    r = buf_put_str(&body, argv[i] ? argv[i] : "",
                    !argv[i]  ? 0
                    : lengths ? lengths[i]
                              : strlen(argv[i]));
  if (!r && name)
    r = buf_put_str(&body, name, strlen(name));
  r = r == -E2BIG ? MF_ELIMIT
      : r         ? MF_ENOMEM
                  : queue_bytes(p, CMD_EVAL, buf_peek(&body), buf_size(&body));
  buf_deinit(&body);
  return r;
}

int mf_send_fd(mf_process *p, int fd) {
  struct fdset fds;
  struct process_command c = {.type = CMD_FD, .fds = &fds};
  int r = process_check_unfinished(p), copy;
  if (r)
    return r;
  r = process_check_handle(p, fd);
  if (r)
    return r;
  copy = fd_dup(fd);
  if (copy < 0)
    return copy == -EBADF ? MF_EINVAL : copy;
  fdset_init(&fds);
  fdset_push(&fds, copy);
  return queue(p, &c);
}

static int count_argument(mf_process *p, uint64_t length) {
  if (length > PROTO_PAYLOAD_MAX || p->narg_bytes > PROTO_PAYLOAD_MAX - length)
    return MF_ELIMIT;
  p->narg_bytes += length;
  return 0;
}

int mf_send_arg(mf_process *p, const void *data, size_t length) {
  int r = process_check_unfinished(p);
  if (!r && !data && length)
    r = MF_EINVAL;
  if (!r)
    r = count_argument(p, length);
  return r ? r : queue_bytes(p, CMD_ARG, data, length);
}

int mf_send_arg_ref(mf_process *p, const void *data, size_t length,
                    void (*release)(void *), void *release_data) {
  struct process_command c = {.type = CMD_ARG,
                              .body = data,
                              .length = length,
                              .release = release,
                              .release_data = release_data};
  int r = process_check_unfinished(p);
  if (!r && !data && length)
    r = MF_EINVAL;
  if (!r)
    r = count_argument(p, length);
  if (r) {
    if (release)
      release(release_data);
    return r;
  }
  return queue(p, &c);
}

int mf_take_args(mf_process *p) {
  int r = queue_bytes(p, CMD_TAKE_ARGS, NULL, 0);
  if (!r)
    p->narg_bytes = 0;
  return r;
}

int mf_chdir(mf_process *p, const char *path) {
  return path && *path ? queue_bytes(p, CMD_CHDIR, path, strlen(path)) : MF_EINVAL;
}

int mf_setenv(mf_process *p, const char *name, const char *value) {
  struct buf body;
  int r;
  if (!name || !*name || strchr(name, '='))
    return MF_EINVAL;
  if (!process_check(p) && p->is_thread)
    return MF_EUNSUPPORTED; /* the environment is its process's */
  buf_init(&body, PROTO_PAYLOAD_MAX);
  r = buf_put_str(&body, name, strlen(name));
  if (!r)
    r = buf_put_str(&body, value, value ? strlen(value) : 0);
  r = r == -E2BIG ? MF_ELIMIT
      : r         ? MF_ENOMEM
                  : queue_bytes(p, CMD_SETENV, buf_peek(&body), buf_size(&body));
  buf_deinit(&body);
  return r;
}

enum {
  SEAL_GC = MF_SEAL_INCREMENTAL | MF_SEAL_STOP,
  SEAL_AUDIT = MF_SEAL_AUDIT_OFF | MF_SEAL_AUDIT_WARN | MF_SEAL_AUDIT_STRICT
};

static int has_two(int bits) {
  return (bits & (bits - 1)) != 0;
}

int mf_seal(mf_process *p, int flags) {
  struct process_command c = {.type = CMD_SEAL, .id = (uint64_t)flags};
  int r = process_check_unfinished(p);
  if (!r && ((flags & ~(SEAL_GC | SEAL_AUDIT)) || has_two(flags & SEAL_GC) ||
             has_two(flags & SEAL_AUDIT)))
    r = MF_EINVAL;
  return r ? r : queue(p, &c);
}

#define LIMIT_NAME(part, text) [LIMIT_##part] = text,
static const char *const limit_names[] = {PROTO_LIMITS(LIMIT_NAME)};
#undef LIMIT_NAME
_Static_assert(sizeof limit_names / sizeof *limit_names == LIMIT_LAST + 1,
               "a name for each");

const char *mf_limit_name(unsigned i) {
  return i < LIMIT_LAST ? limit_names[i + 1] : NULL;
}

/* 0: there is none of that name. */
static unsigned limit_number(const char *name) {
  for (unsigned i = LIMIT_LAST; name && i > 0; i--)
    if (!strcmp(limit_names[i], name))
      return i;
  return 0;
}

int mf_limit(mf_process *p, const mf_rlimit *limits, size_t count) {
  struct buf body;
  size_t i;
  int r = process_check_unfinished(p);
  if (!r && !limits && count)
    r = MF_EINVAL;
  if (!r && p->is_thread)
    r = MF_EUNSUPPORTED;
  buf_init(&body, FRAME_BODY_MAX);
  for (i = 0; !r && i < count; i++) {
    unsigned number = limit_number(limits[i].name);
    r = number ? buf_put_u32(&body, number) : MF_EINVAL;
    if (!r)
      r = buf_put_u32(&body, 0);
    if (!r)
      r = buf_put_u64(&body, limits[i].value);
  }
  if (!r)
    r = queue_bytes(p, CMD_LIMIT, buf_peek(&body), buf_size(&body));
  buf_deinit(&body);
  return api_result(r);
}
