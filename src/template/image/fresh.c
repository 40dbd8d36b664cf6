/* See fresh.h. The report goes through a pipe, so that no limit on files is in its way:
 *
 *   u32 1 | text                              a library can't be loaded
 *   u32 0 | u32 n | n x (struct head | path | data)
 */
#include "template/image/fresh.h"

#include "base/buf.h"
#include "os/fd.h"
#include "os/proc.h"
#include "template/image/image.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define FRESH_ARG "--moonfork-fresh"

enum {
  WORD = sizeof(uint64_t),
  SECONDS_MAX = 60 /* for constructors; the process is ended then */
};

struct head {
  uint64_t base, low, high, ndata;
  uint32_t npath;
  int32_t owner;
};

/* ---- variables, in whole words ---- */

static uint64_t words_from(uint64_t from) {
  return from & ~(uint64_t)(WORD - 1);
}

static uint64_t words_to(uint64_t to) {
  return (to + WORD - 1) & ~(uint64_t)(WORD - 1);
}

static uint64_t tls_size(const struct library *o) {
  return words_to(o->tls_size);
}

uint64_t fresh_data_size(const struct library *o) {
  uint64_t n = tls_size(o);
  for (unsigned i = 0; i < o->ndata; i++)
    n += words_to(o->data[i].to) - words_from(o->data[i].from);
  return n;
}

/* Between the variables of an instrumented module lies what a sanitizer forbids to read;
 * it sees memcpy, and what compilers make of a plain loop. */
__attribute__((no_sanitize("address"))) static void copy(char *to, uint64_t from,
                                                         uint64_t n) {
  const volatile char *at = (const volatile char *)(uintptr_t)from;
  for (; n > 0; n--)
    *to++ = *at++;
}

void fresh_data_copy(const struct library *o, char *to) {
  for (unsigned i = 0; i < o->ndata; i++) {
    uint64_t from = words_from(o->data[i].from), n = words_to(o->data[i].to) - from;
    copy(to, from, n);
    to += n;
  }
  memset(to, 0, (size_t)tls_size(o));
  if (o->tls.from)
    copy(to, (uint64_t)(uintptr_t)o->tls.from, o->tls_size);
  else if (o->tls_init_size)
    copy(to, (uint64_t)(uintptr_t)o->tls_init, o->tls_init_size);
}

uint64_t fresh_data_address(const struct library *o, uint64_t offset) {
  for (unsigned i = 0; i < o->ndata; i++) {
    uint64_t from = words_from(o->data[i].from), n = words_to(o->data[i].to) - from;
    if (offset < n)
      return from + offset;
    offset -= n;
  }
  return 0;
}

int fresh_data_is_thread(const struct library *o, uint64_t offset) {
  return offset >= fresh_data_size(o) - tls_size(o);
}

/* ---- in the process that is asked ---- */

static void send_all(int fd, const void *data, size_t n) {
  const char *p = data;
  while (n > 0) {
    ssize_t done = write(fd, p, n);
    if (done < 0 && errno != EINTR)
      _exit(1);
    p += done < 0 ? 0 : done;
    n -= done < 0 ? 0 : (size_t)done;
  }
}

static _Noreturn void send_failure(int fd, const char *text) {
  uint32_t failed = 1;
  send_all(fd, &failed, sizeof failed);
  send_all(fd, text, strlen(text));
  _exit(0);
}

static void send_object(int fd, const struct library *o, int owner) {
  struct head head = {.base = o->base,
                      .low = o->low,
                      .high = o->high,
                      .ndata = owner < 0 ? 0 : fresh_data_size(o),
                      .npath = (uint32_t)strlen(o->path),
                      .owner = owner};
  char *data = malloc((size_t)head.ndata + 1);
  if (!data)
    _exit(1);
  send_all(fd, &head, sizeof head);
  send_all(fd, o->path, head.npath);
  if (owner >= 0)
    fresh_data_copy(o, data);
  send_all(fd, data, (size_t)head.ndata);
  free(data);
}

/* owners: of the objects by then, in the order in which they were loaded. */
static void report(int fd, const int *owners) {
  struct libraries all;
  if (libraries_list(&all) < 0)
    _exit(1);
  uint32_t head[2] = {0, (uint32_t)all.n};
  send_all(fd, head, sizeof head);
  for (size_t i = 0; i < all.n; i++)
    send_object(fd, &all.all[i], owners[i]);
}

static size_t count_objects(void) {
  struct libraries all;
  if (libraries_list(&all) < 0)
    _exit(1);
  size_t n = all.n;
  libraries_free(&all);
  return n;
}

static _Noreturn void load_and_report(int fd, char *const *files) {
  int *owners = NULL;
  size_t known = 0;
  for (int file = -1; file < 0 || files[file]; file++) {
    if (file >= 0 && !dlopen(files[file], RTLD_NOW)) {
      const char *error = dlerror();
      send_failure(fd, error ? error : files[file]);
    }
    size_t n = count_objects();
    int *more = realloc(owners, (n + 1) * sizeof *more);
    if (!more)
      _exit(1);
    owners = more;
    while (known < n)
      owners[known++] = file;
  }
  report(fd, owners);
  _exit(0); /* without what the libraries want to do at an end */
}

void image_check_fresh(int argc, char **argv) {
  enum { FD = PROC_CONTROL_FD };
  if (argc < 3 || strcmp(argv[1], FRESH_ARG) != 0)
    return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  alarm(SECONDS_MAX);
  if (fcntl(FD, F_SETFD, FD_CLOEXEC) < 0)
    _exit(2);
  load_and_report(FD, argv + 2);
}

/* ---- in the process that asks ---- */

static int receive(int fd, struct buf *b) {
  enum { ROOM = 65536 };
  for (;;) {
    void *room = buf_reserve(b, ROOM);
    if (!room)
      return -ENOMEM;
    ssize_t n = read(fd, room, ROOM);
    if (n == 0)
      return 0;
    if (n < 0 && errno != EINTR)
      return -errno;
    if (n > 0)
      buf_commit(b, (size_t)n);
  }
}

/* Whoever reaps children by a handler of SIGCHLD, or ignores it, may be faster. */
static void await(pid_t pid) {
  while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
    ;
}

static int start(const char *const *files, size_t nfiles, int fd, pid_t *ret_pid) {
  extern char **environ;
  static char name[] = "moonfork-template", word[] = FRESH_ARG;
  char **argv = calloc(nfiles + 3, sizeof *argv);
  int null = fd_open_null();
  int r = argv ? 0 : -ENOMEM;
  if (r == 0) {
    argv[0] = name;
    argv[1] = word;
    for (size_t i = 0; i < nfiles; i++)
      argv[2 + i] = (char *)(uintptr_t)files[i];
    struct proc_spawn spawn = {.program = "/proc/self/exe",
                               .argv = argv,
                               .envp = environ,
                               .control_fd = fd,
                               .leash_fd = -1,
                               .stdio = {null, null, -1}};
    r = null < 0 ? null : proc_spawn(&spawn, ret_pid);
  }
  fd_close(&null);
  free(argv);
  return r;
}

static int run(const char *const *files, size_t nfiles, struct buf *b) {
  int ends[2];
  pid_t pid = -1;
  if (pipe2(ends, O_CLOEXEC) < 0)
    return -errno;
  int r = start(files, nfiles, ends[1], &pid);
  fd_close(&ends[1]);
  if (r == 0) {
    r = receive(ends[0], b);
    if (r < 0)
      kill(pid, SIGKILL);
    fd_close(&ends[0]);
    await(pid);
  }
  fd_close(&ends[0]);
  return r;
}

static int take(const char **p, const char *end, void *to, size_t n) {
  if ((size_t)(end - *p) < n)
    return -EPROTO;
  memcpy(to, *p, n);
  *p += n;
  return 0;
}

static int parse_object(const char **p, const char *end, struct fresh_object *o) {
  struct head h;
  if (take(p, end, &h, sizeof h) < 0 || h.npath > (size_t)(end - *p) ||
      h.ndata > (size_t)(end - *p) - h.npath)
    return -EPROTO;
  *o = (struct fresh_object){.base = h.base,
                             .low = h.low,
                             .high = h.high,
                             .owner = h.owner,
                             .data = *p + h.npath,
                             .ndata = h.ndata};
  o->path = strndup(*p, h.npath);
  *p += h.npath + h.ndata;
  return o->path ? 0 : -ENOMEM;
}

static int parse(struct fresh *f, size_t n, char *why, size_t nwhy) {
  const char *p = f->text, *end = p + n;
  uint32_t failed, nobjects;
  if (take(&p, end, &failed, sizeof failed) < 0)
    return -EPROTO;
  if (failed) {
    snprintf(why, nwhy, "%.*s", (int)(end - p), p);
    return -EINVAL;
  }
  if (take(&p, end, &nobjects, sizeof nobjects) < 0 || nobjects > n / sizeof(struct head))
    return -EPROTO;
  f->objects = calloc((size_t)nobjects + 1, sizeof *f->objects);
  int r = f->objects ? 0 : -ENOMEM;
  while (r == 0 && f->nobjects < nobjects) {
    r = parse_object(&p, end, &f->objects[f->nobjects]);
    f->nobjects += r == 0;
  }
  return r;
}

int fresh_look(const char *const *files, size_t nfiles, struct fresh *ret, char *why,
               size_t nwhy) {
  struct buf b;
  buf_init(&b, SIZE_MAX / 4);
  *ret = (struct fresh){0};
  *why = '\0';
  int r = run(files, nfiles, &b);
  size_t n = buf_size(&b);
  ret->text = r == 0 ? malloc(n + 1) : NULL;
  if (r == 0 && !ret->text)
    r = -ENOMEM;
  if (r == 0) {
    if (n)
      memcpy(ret->text, buf_peek(&b), n);
    r = parse(ret, n, why, nwhy);
  }
  buf_deinit(&b);
  if (r == 0)
    return 0;
  if (!*why)
    snprintf(why, nwhy, "%s",
             r == -EPROTO ? "it ended before it had answered" : strerror(-r));
  fresh_free(ret);
  return r;
}

void fresh_free(struct fresh *f) {
  for (size_t i = 0; i < f->nobjects; i++)
    free(f->objects[i].path);
  free(f->objects);
  free(f->text);
  *f = (struct fresh){0};
}
