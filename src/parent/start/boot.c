/* Processes that no template forks: of an executed program, and those that exist already.
 * The parent never forks itself here: programs are started by posix_spawn. Runs in the
 * parent. */
#include "parent/start/boot.h"

#include "parent/common/program.h"
#include "parent/common/times.h"
#include "parent/loop/spawner.h"
#include "parent/private.h"
#include "parent/process/journal.h"
#include "parent/start/mark.h"
#include "parent/start/remote.h"
#include "wire/build.h"
#include "wire/slot_layout.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- SETUP ---- */

static int put_flag(struct buf *out, unsigned tag) {
  int r = buf_put_u8(out, tag);
  if (!r)
    r = buf_put_u32(out, 1);
  return r ? r : buf_put_u8(out, 1);
}

/* Memory for its last words, where there is such memory: behind all other descriptors. */
static int put_words(struct mf_process *p, struct buf *out, struct fdset *fds) {
  struct backend *s = p->context->backend;
  void *map;
  int fd, r = p->last_words ? -EEXIST
                            : s->ops->share(s, sizeof(struct last_words), &fd, &map);
  if (r < 0)
    return 0;
  p->last_words = map;
  fdset_push(fds, fd);
  return put_flag(out, OPT_WORDS);
}

static int send_setup(struct mf_process *p, const mf_options *o, int forked) {
  struct buf body;
  struct fdset fds;
  /* The owner of one behind a link is its agent there, who is its parent. */
  uint64_t owner = p->far ? 0 : (uint64_t)getpid();
  struct process_command c = {.type = CMD_SETUP, .id = owner, .fds = &fds};
  int r;
  fdset_init(&fds);
  buf_init(&body, PROTO_PAYLOAD_MAX); /* a long environment goes in parts */
  r = buf_put_u32(&body, PROTO_MAGIC);
  if (!r)
    r = buf_put_u16(&body, PROTO_VERSION);
  if (!r)
    r = buf_put_u16(&body, 0);
  if (!r)
    r = build_put(&body);
  if (!r)
    r = options_encode(o, 1, &body, &fds);
  if (!r && !p->far && !spawner_lasts(forked))
    r = put_flag(&body, OPT_PIPE_LEASH);
  if (!r && !p->far)
    r = put_words(p, &body, &fds);
  c.body = buf_peek(&body);
  c.length = buf_size(&body);
  if (!r)
    r = process_event(p, &(struct event){EV_COMMAND, .command = &c});
  else
    fdset_close(&fds);
  buf_deinit(&body);
  return r;
}

/* p greets, has its deadline, and gets its options. */
static int introduce(struct mf_process *p, const mf_options *o, int forked) {
  p->greeting = 1;
  p->forked = p->pid > 0;
  p->tree = o && o->tree == MF_TREE_YES;
  p->leash = o ? (unsigned)o->leash : MF_LEASH_KILL;
  process_await_hello(p);
  if (o && o->name && !p->name)
    p->name = strdup(o->name);
  return send_setup(p, o, forked);
}

/* ---- exec ---- */

/* room: of PROGRAM_PATH_MAX bytes, for what is found there. */
static const char *program_of(const mf_options *o, char *room) {
  return o && o->program ? o->program : program_default(room);
}

/* Starts the program and connects p to it. A program that does not start is p's failure,
 * not the call's. */
static int spawn(struct mf_process *p, const mf_options *o, const char *program) {
  struct backend *s = p->context->backend;
  char boot[sizeof PROTO_BOOT_ARG + 24];
  char *argv[3], **environment;
  struct proc_spawn spawn = {.program = program, .stdio = {-1, -1, -1}};
  pid_t pid = -1;
  int pair[2], null_fd = -1, leash, r, i;
  r = s->ops->pair(s, pair);
  if (r < 0)
    return r;
  /* SETUP says the same once more; this is for what the program says before. */
  for (i = 0; o && i < 3; i++) {
    if (o->stdio[i].kind == MF_STDIO_FD)
      spawn.stdio[i] = o->stdio[i].fd;
    else if (o->stdio[i].kind != MF_STDIO_INHERIT)
      spawn.stdio[i] = null_fd = null_fd < 0 ? fd_open_null() : null_fd;
  }
  leash = mf_leash_fd();
  environment = mark_environment();
  if (leash < 0) {
    r = leash;
  } else if (!environment) {
    r = -ENOMEM;
  } else {
    snprintf(boot, sizeof boot, PROTO_BOOT_ARG "%d,%d", PROTO_BOOT_CONTROL_FD,
             PROTO_BOOT_LEASH_FD);
    argv[0] = (char *)program;
    argv[1] = boot;
    argv[2] = NULL;
    spawn.argv = argv;
    spawn.envp = environment;
    spawn.control_fd = pair[1];
    spawn.leash_fd = leash;
    spawn.own_group =
        p->tree && !(o && o->new_session); /* which the leader of one can't have */
    r = s->ops->spawn(s, &spawn, &pid);
  }
  mark_free(environment);
  s->ops->close(s, &pair[1]);
  fd_close(&null_fd);
  if (r < 0) {
    s->ops->close(s, &pair[0]);
    return r;
  }
  p->child = 1;
  p->is_itself = proc_is_own_program(program);
  process_set_pid(p, (int)pid);
  return process_connect(p, pair[0]);
}

static int start(struct mf_process *p, const mf_options *o) {
  return p->far ? remote_start(p, o) : spawn(p, o, p->program);
}

/* r: a negated errno. The command itself is started by the near end, which tells of it. */
static void fail_start(struct mf_process *p, int r) {
  char room[PROGRAM_PATH_MAX];
  if (p->far)
    process_fail(p, MF_ETEMPLATE_START, MF_STARTED_NO, NULL,
                 "%s, which starts the command '%s', can't be started: %s",
                 program_remote(room), p->program, strerror(-r));
  else
    process_fail(p, MF_ETEMPLATE_START, MF_STARTED_NO, NULL, "%s can't be started: %s",
                 p->program, strerror(-r));
}

void boot_spawn(struct mf_process *p, const mf_options *o) {
  int r;
  p->unstarted = 0;
  if (mark_is_left()) {
    process_fail(
        p, MF_ETEMPLATE_START, MF_STARTED_NO, NULL,
        "%s can't be started: this process was started as a template program itself, "
        "and went on as a host; main() has to call mf_template_check before anything "
        "else",
        p->program);
    process_end_unstarted(p);
    return;
  }
  if (!p->far && !*p->program) {
    process_fail(p, MF_ETEMPLATE_START, MF_STARTED_NO, NULL,
                 "the option program is empty: the path of a template program expected");
    process_end_unstarted(p);
    return;
  }
  r = start(p, o);
  if (r == 0)
    return;
  fail_start(p, r);
  process_end_unstarted(p);
}

int boot_prepare(struct mf_process *p, const mf_options *o) {
  char room[PROGRAM_PATH_MAX];
  p->program = o && o->command ? remote_name(o) : strdup(program_of(o, room));
  if (!p->program)
    return MF_ENOMEM;
  if (o && o->command) {
    struct far_link *far = remote_new(p->context);
    if (!far)
      return MF_ENOMEM;
    process_far_join(p, far);
  }
  return introduce(p, o, 0);
}

int boot_exec(struct context *ctx, const mf_options *o, struct mf_process **ret) {
  struct mf_process *p = process_new(ctx, FORKING);
  int r;
  if (!p)
    return MF_ENOMEM;
  p->journal = journal_new(JOURNAL_EXEC, o);
  r = boot_prepare(p, o);
  if (r < 0) {
    process_abandon(p);
    return r;
  }
  boot_spawn(p, o);
  *ret = p;
  return 0;
}

/* ---- processes that exist already ---- */

int boot_adopt(struct context *ctx, const mf_options *o, int fd, int pid, int child,
               struct mf_process **ret) {
  struct mf_process *p = process_new(ctx, FORKING);
  int r;
  if (!p) {
    fd_close(&fd);
    return MF_ENOMEM;
  }
  p->child = child != 0;
  process_set_pid(p, pid);
  r = introduce(p, o, 1);
  if (!r)
    r = process_connect(p, fd);
  else
    fd_close(&fd);
  if (r < 0) {
    process_abandon(p);
    return r == -ENOMEM ? MF_ENOMEM : r;
  }
  *ret = p;
  return 0;
}

/* Its parent may be another process: then this is the leash on which it is ours. */
static int add_leash(struct fdset *fds) {
  int leash = mf_leash_fd();
  fdset_init(fds);
  if (leash >= 0)
    leash = fd_dup(leash);
  if (leash < 0)
    return leash;
  fdset_push(fds, leash);
  return 0;
}

int boot_take_up(struct context *ctx, int fd, struct mf_process **ret) {
  struct fdset fds;
  struct process_command who = {.type = CMD_WHO, .id = (uint64_t)getpid(), .fds = &fds};
  struct mf_process *p = process_new(ctx, FORKING);
  int r;
  if (!p) {
    fd_close(&fd);
    return MF_ENOMEM;
  }
  p->greeting = 1;
  p->taken_up = 1;
  p->takes_word = channel_ask_writer(&p->chan, ctx->backend, fd) < 0;
  r = add_leash(&fds);
  if (!r)
    r = process_event(p, &(struct event){EV_COMMAND, .command = &who});
  if (!r)
    r = process_connect(p, fd);
  else
    fd_close(&fd);
  if (r < 0) {
    process_abandon(p);
    return r;
  }
  process_await_hello(p); /* what says nothing is no process of ours */
  process_update(p);
  *ret = p;
  return 0;
}
