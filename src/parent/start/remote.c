#include "parent/start/remote.h"

#include "parent/common/program.h"
#include "parent/private.h"
#include "parent/process/children.h"
#include "parent/process/internal.h"
#include "parent/start/mark.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 512 };

struct far_link *remote_new(struct context *ctx) {
  return far_link_new(ctx, &process_far_ops);
}

char *remote_name(const mf_options *o) {
  char text[NAME_MAX_BYTES];
  size_t n = 0;
  for (const char *const *c = o->command; *c; c++) {
    size_t length = strlen(*c), gap = n > 0;
    if (n + gap + length >= sizeof text) {
      length = sizeof text - 1 - n - gap;
      if (n + gap + 4 > sizeof text)
        break;
    }
    memcpy(text + n, " ", gap);
    memcpy(text + n + gap, *c, length);
    n += gap + length;
  }
  return strndup(text, n);
}

/* "moonfork-remote near COMMAND..."; to be freed. */
static char **arguments(const char *program, const char *const *command) {
  size_t n = 0;
  while (command[n])
    n++;
  char **argv = calloc(n + 3, sizeof *argv);
  if (!argv)
    return NULL;
  argv[0] = (char *)(uintptr_t)program;
  argv[1] = (char *)(uintptr_t) "near";
  for (size_t i = 0; i < n; i++)
    argv[2 + i] = (char *)(uintptr_t)command[i];
  return argv;
}

/* The first that is said on the link, with the root's control socket and the page. */
static int say_start(struct backend *s, int side, const mf_options *o, const int *given,
                     int ngiven) {
  struct buf b;
  buf_init(&b, LINK_BODY_MAX);
  int r = link_put_start(&b, o->beat_ms ? o->beat_ms : LINK_BEAT_MS,
                         o->window ? (uint32_t)o->window : LINK_WINDOW);
  for (const int *fds = given; r == 0 && buf_size(&b); fds = NULL) {
    struct iovec iov = {(void *)(uintptr_t)buf_peek(&b), buf_size(&b)};
    ssize_t sent = s->ops->send(s, side, &iov, 1, fds, fds ? ngiven : 0);
    r = sent < 0 ? (int)sent : sent == 0 ? -EAGAIN : 0;
    if (r == 0)
      buf_consume(&b, (size_t)sent);
  }
  buf_deinit(&b);
  return r;
}

static int spawn_near(struct mf_process *p, const mf_options *o, int side) {
  struct backend *s = p->context->backend;
  char room[PROGRAM_PATH_MAX];
  const char *program = program_remote(room);
  char **argv = arguments(program, o->command), **environment = mark_environment();
  int leash = mf_leash_fd(), r = -ENOMEM;
  pid_t pid = -1;
  if (argv && environment && leash >= 0) {
    struct proc_spawn spawn = {.program = program,
                               .argv = argv,
                               .envp = environment,
                               .control_fd = side,
                               .leash_fd = leash,
                               .stdio = {-1, -1, -1}};
    r = s->ops->spawn(s, &spawn, &pid);
  } else if (leash < 0) {
    r = leash;
  }
  mark_free(environment);
  free(argv);
  if (r < 0)
    return r;
  children_claim((int)pid);
  children_keep(&registry_of(p->context)->children, (int)pid, 0);
  return 0;
}

int remote_start(struct mf_process *p, const mf_options *o) {
  struct backend *s = p->context->backend;
  int side[2], root[2], r;
  far_fork_prepare(p->far);
  r = s->ops->pair(s, side);
  if (r < 0)
    return r;
  r = s->ops->pair(s, root);
  if (r < 0) {
    s->ops->close(s, &side[0]);
    s->ops->close(s, &side[1]);
    return r;
  }
  int given[2] = {root[1], far_link_make_page(p->far)};
  r = say_start(s, side[0], o, given, given[1] < 0 ? 1 : 2);
  if (!r)
    r = spawn_near(p, o, side[1]);
  /* The library's own descriptors wait in there: a thread that closes it some time later,
   * as it does where others' may wait, is not needed. */
  s->ops->close_now(s, &side[1]);
  s->ops->close(s, &root[1]);
  if (given[1] >= 0)
    s->ops->close(s, &given[1]);
  if (!r)
    r = far_link_open(p->far, side[0]); /* takes it */
  else
    s->ops->close(s, &side[0]);
  if (r < 0) {
    s->ops->close(s, &root[0]);
    return r;
  }
  process_far_mark_tree(p);
  return process_connect(p, root[0]);
}
