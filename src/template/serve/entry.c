/* How a process becomes a template, and the outermost loop of its life and of its
 * clones'. Runs in templates and clones.
 *
 *   template_enter --> serve --SERVED_BORN--> clone_born --> serve_inner --> serve ...
 *                        \-----SERVED_RUN--> runner_enter (leaves)
 *
 * mf_template_main and mf_template_check are for programs: they read the boot argument.
 */
#include "template/serve/entry.h"

#include "base/sized.h"
#include "os/proc.h"
#include "template/fork/clone.h"
#include "template/image/image.h"
#include "template/lua/script.h"
#include "template/serve/runner.h"
#include "template/serve/serve.h"
#include "template/server/report.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <moonfork.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- on an interpreter that is running ---- */

/* What exists stays with the interpreter's own allocator; what comes goes to our heap,
 * which can be sealed. */
static void take_over_allocator(struct server *s, lua_State *L) {
  void *ud;
  lua_Alloc alloc = lua_getallocf(L, &ud);
  s->heap = heap_new(0);
  if (!s->heap)
    return;
  heap_set_foreign(s->heap, alloc, ud);
  lua_setallocf(L, heap_alloc, s->heap);
}

static void settle_on(struct server *s, lua_State *L) {
  lua_sethook(L, NULL, 0, 0);
  take_over_allocator(s, L);
  s->L = L;
  if (script_leave_frames(s) == 0 && script_prepare(s) == 0)
    return;
  fprintf(stderr, "moonfork: not enough memory for a template\n");
  _exit(1);
}

/* ---- the loop of lives ---- */

static _Noreturn __attribute__((noinline)) void live(struct server *s, int r) {
  for (;; r = 0) {
    if (r == 0)
      r = serve(s);
    while (r == SERVED_BORN) {
      clone_born(s);
      r = serve_inner(s);
    }
    if (r == SERVED_RUN)
      runner_enter(s);
  }
}

void entry_thread(struct server *s) {
  clone_born(s);
  live(s, serve_inner(s));
}

/* A birth needs some 3 KiB of stack: they begin at the top of a page. */
static _Noreturn void live_at_a_page(struct server *s, int r) {
  enum { PAGE = 4096 };
  volatile char *room =
      __builtin_alloca(((uintptr_t)__builtin_frame_address(0) & (PAGE - 1)) + 64);
  *room = 0;
  live(s, r);
}

static void close_rest(const struct template_entry *e) {
  int keep[3] = {e->control_fd}, n = 1;
  if (e->leash_fd >= 0)
    keep[n++] = e->leash_fd;
  if (e->intake_fd > 0)
    keep[n++] = e->intake_fd;
  fd_close_from(3, keep, (size_t)n);
}

/* Where the standard streams are closed, files that the template opens would take their
 * numbers and get what is printed. */
static void fill_standard_streams(void) {
  for (int i = 0; i < 3; i++)
    if (fcntl(i, F_GETFD) < 0 && errno == EBADF) {
      int fd = open("/dev/null", O_RDWR);
      if (fd >= 0 && fd != i) {
        dup2(fd, i);
        fd_close(&fd);
      }
    }
}

void template_enter(const struct template_entry *e) {
  struct server *s = &server_storage;
  memset(s, 0, offsetof(struct server, failure)); /* the texts stay untouched pages */
  proc_reset_signals();
  s->given = e->L;
  s->options = e->options;
  server_take_pid(s);
  s->owner_pid = (uint64_t)getppid();
  int control_fd = fd_raise(e->control_fd);
  int leash_fd = e->leash_fd >= 0 ? fd_raise(e->leash_fd) : -1;
  int intake_fd = e->intake_fd > 0 ? fd_raise(e->intake_fd) : 0;
  if (control_fd < 0)
    _exit(2);
  if (e->close_rest) {
    struct template_entry now = {
        .control_fd = control_fd, .leash_fd = leash_fd, .intake_fd = intake_fd};
    close_rest(&now);
    fill_standard_streams();
  }
  s->intake_fd = intake_fd > 0 ? intake_fd : -1;
  connection_open(&s->conn, control_fd, s->room, sizeof s->room);
  leash_init(&s->leash, leash_fd);
  args_init(&s->args);
  server_set_self(s);
  report_start(server_report);
  if (e->L)
    settle_on(s, e->L);
  live_at_a_page(s, 0);
}

void entry_born(struct server *s) {
  live_at_a_page(s, SERVED_BORN);
}

/* ---- programs ---- */

/* "--moonfork-template=3,4", perhaps with a third number. 0 when the argument is one. */
static int parse_boot(const char *arg, struct template_entry *ret) {
  const size_t n = sizeof PROTO_BOOT_ARG - 1;
  char *end;
  if (!arg || strncmp(arg, PROTO_BOOT_ARG, n) != 0)
    return -1;
  errno = 0;
  long control = strtol(arg + n, &end, 10);
  long leash = *end == ',' ? strtol(end + 1, &end, 10) : -1;
  long intake = leash >= 0 && *end == ',' ? strtol(end + 1, &end, 10) : 0;
  if (errno || *end || control < 3 || intake < 0 || intake > INT_MAX ||
      control > INT_MAX || leash > INT_MAX || leash == control ||
      (leash >= 0 && leash < 3))
    return -1;
  ret->control_fd = (int)control;
  ret->leash_fd = leash >= 0 ? (int)leash : -1;
  ret->intake_fd = (int)intake;
  return 0;
}

static const char help[] =
    "This is the template program of moonfork " MF_VERSION_STRING ". It is started by\n"
    "moonfork itself (fork.new, fork.new_exec, mf_new, mf_new_exec), with a control\n"
    "socket, and does nothing useful when it is called by hand.\n"
    "\n"
    "  --version   prints the version and exits with 0\n"
    "  --help      prints this text and exits with 0\n";

int template_options_load(const mf_template_options *from, mf_template_options *ret) {
  *ret = (mf_template_options)MF_TEMPLATE_OPTIONS_INIT;
  return from && sized_load(ret, sizeof *ret, from) < 0 ? MF_EINVAL : 0;
}

int mf_template_check(int argc, char **argv, const mf_template_options *options) {
  static struct template_entry entry;
  static mf_template_options full;
  image_check_fresh(argc, argv);
  int has_paths = argc == 4; /* the agent's (remote/ends.h) */
  if ((argc != 2 && !has_paths) || parse_boot(argv[1], &entry) < 0)
    return 0;
  if (has_paths)
    script_set_defaults(argv[2], argv[3]);
  if (template_options_load(options, &full) < 0) {
    fprintf(stderr, "moonfork: the size of mf_template_options is not set; start from "
                    "MF_TEMPLATE_OPTIONS_INIT\n");
    _exit(2);
  }
  unsetenv(PROTO_MARK_ENV);
  entry.options = &full;
  entry.close_rest = 1;
  template_enter(&entry);
}

int mf_template_main(int argc, char **argv, const mf_template_options *options) {
  mf_template_check(argc, argv, options);
  if (argc == 2 && strcmp(argv[1], "--version") == 0) {
    printf("moonfork-template %s (%s)\n", MF_VERSION_STRING, LUA_RELEASE);
    return 0;
  }
  int asked = argc == 2 && strcmp(argv[1], "--help") == 0;
  fputs(help, asked ? stdout : stderr);
  return asked ? 0 : 2;
}
