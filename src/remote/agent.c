/* The far end: behind the command, the parent of every process over there. It is silent
 * but for its greeting until the near end has greeted, and ends with its connection; then
 * the kernel ends what is on its leash. */
#include "remote/ends.h"

#include "os/proc.h"
#include "os/sock.h"
#include "remote/beat.h"
#include "remote/intake.h"
#include "remote/mux.h"
#include "remote/records.h"
#include "remote/tables.h"
#include "wire/build.h"
#include "wire/proto.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum {
  UNGREETED_MS = 30 * 1000, /* as long as the parent waits for a greeting */
  LATE_MS = 1,
  UNHEARD_MS = 2, /* ends that nobody waits for are told so much later at most */
  MANY = LINK_FORKS_MAX / 2, /* forks under way without a socket: all is busy */
  FEW = LINK_FORKS_MAX / 4,  /* the template may run out of them */
  PAUSE_STEP_US = 20,
  PAUSE_MAX_US = 300
};

static struct turn turn;
static struct mux mux;
static struct beat beat;
static struct tables tables;
static struct records records;
static struct intake intake;
static char **words; /* as in remote/ends.h */
static const char *program;
static int leash[2] = {-1, -1};
static size_t nlate;      /* bytes of `ended` that can go; behind them */
static size_t nquiet;     /* those that wait for on_quiet */
static unsigned pause_us; /* for more ends to come, where forks are many */
static unsigned nheard;   /* of those that are reaped, who could have said something */
static uv_timer_t late;
static uv_timer_t ungreeted; /* until the near end has greeted */
static int is_row;           /* of forks one at a time: nobody waits for an end */
static int is_forking;       /* a FORK of that row was passed on in this turn */

static void end(int status) {
  mux_flush(&mux);
  _exit(status); /* the kernel does the rest: it is the leash of all */
}

static void fail(const char *text) {
  link_put_text(&mux.out, LINK_FAILED, text, strlen(text));
  end(1);
}

/* ---- ends ---- */

static void hold_back(void) {
  if (nquiet || buf_size(&tables.ended) == nlate)
    return;
  nquiet = buf_size(&tables.ended) - nlate;
  mux_await_quiet(&mux);
}

static void on_quiet(struct mux *m) {
  nlate += nquiet;
  nquiet = 0;
  hold_back(); /* those that ended meanwhile */
}

static int is_birth_near(unsigned ms) {
  return mux.passed_ms && mux_now_ms(&mux) - mux.passed_ms <= ms;
}

static void put_late(void) {
  if (buf_put(&mux.out, buf_peek(&tables.ended), nlate) < 0)
    mux_break(&mux, "not enough memory");
  buf_consume(&tables.ended, nlate);
  nlate = 0;
  if (!is_row) /* whose end it tells of */
    uv_timer_stop(&late);
}

static void on_late(uv_timer_t *t);

/* While a clone is being born, which is told in a moment, reports of others go with that:
 * a message less, and the processor stays with the template. */
static void pass_late(void) {
  int waits = is_row || is_birth_near(LATE_MS);
  if (nlate && (!waits || mux_backlog(&mux) > 0))
    put_late();
  else if (nlate && !uv_is_active((uv_handle_t *)&late))
    uv_timer_start(&late, on_late, LATE_MS, 0);
}

/* With many forks under way all processors are busy, and nobody waits for a certain end:
 * those that are told together wake the agent, the near end and the program once. */
static void gather_ends(void) {
  struct timespec t = {0, (long)pause_us * 1000};
  if (mux_backlog(&mux) > 0)
    mux_flush(&mux);
  if (pause_us)
    nanosleep(&t, NULL);
}

/* As long as the template has forks left meanwhile. */
static void choose_pause(void) {
  if (intake.nwaiting < FEW)
    pause_us /= 2;
  else if (pause_us < PAUSE_MAX_US)
    pause_us += PAUSE_STEP_US;
}

static void reap(void) {
  int gathers = intake.nwaiting >= MANY;
  if (gathers)
    gather_ends();
  nheard = 0;
  if (tables_reap(&tables, &mux.out) < 0 ||
      (nheard && tables_put_news(&tables, &mux.out) < 0)) /* whom they have forked */
    mux_break(&mux, "not enough memory");
  else if (nheard || nquiet)
    hold_back();
  else
    nlate = buf_size(&tables.ended);
  if (gathers)
    choose_pause();
}

/* While nobody waits for ends they are looked for when a FORK is passed on, and told with
 * its return: they wake nobody. */
static void set_row(int on) {
  if (on == is_row || turn_hear_children(&turn, !on) < 0)
    return; /* on_late tries again */
  is_row = on;
  if (is_row)
    uv_timer_start(&late, on_late, UNHEARD_MS, 0);
}

static void on_late(uv_timer_t *t) {
  if (is_row && !is_birth_near(UNHEARD_MS))
    set_row(0);
  reap();
  put_late();
  if (is_row)
    uv_timer_start(&late, on_late, UNHEARD_MS, 0);
}

/* The template forks, and nobody waits for us. */
static void look_for_ends(void) {
  is_forking = 0;
  reap();
  uv_timer_start(&late, on_late, UNHEARD_MS, 0);
  if (mux_backlog(&mux) > 0)
    mux_after(&mux);
}

static void on_end_of(struct tables *t, pid_t pid, int has_returned) {
  if (pid == t->root)
    intake_end_pending(&intake);
  if (!intake_end(&intake, pid, has_returned))
    nheard++;
}

static void on_birth(struct tables *t, uint32_t table, uint32_t index, pid_t pid) {
  intake_birth(&intake, table, index, pid);
}

/* One that is no child of ours: its pidfd is watched. */
struct watched {
  struct turn_watch ready;
  uint64_t serial;
};

static void on_pidfd(struct turn_watch *ready, int events) {
  struct watched *w = list_entry(ready, struct watched, ready);
  uint64_t serial = w->serial;
  turn_watch(&turn, ready, -1, 0); /* before its pidfd is closed */
  free(w);
  if (tables_put_news(&tables, &mux.out) < 0 || tables_on_end(&tables, serial) < 0)
    mux_break(&mux, "not enough memory");
  else
    hold_back();
}

static int watch_pidfd(struct tables *t, uint64_t serial, int pidfd) {
  struct watched *w = calloc(1, sizeof *w);
  if (!w)
    return -ENOMEM;
  w->serial = serial;
  w->ready.on_ready = on_pidfd;
  int r = turn_watch(&turn, &w->ready, pidfd, TURN_READ);
  if (r < 0)
    free(w);
  return r;
}

static const struct tables_ops tables_ops = {watch_pidfd, on_birth, on_end_of};

/* ---- the template ---- */

/* Where no other clone is being born, ends are told at once from now on: who has forked
 * waits for this one's, perhaps. */
static void before_end(struct intake *i) {
  if (i->nwaiting <= 1)
    mux.passed_ms = 0;
  if (tables_put_news(&tables, &mux.out) < 0 || tables_put_returns(&tables, &mux.out) < 0)
    mux_break(&mux, "not enough memory");
}

static const struct intake_ops intake_ops = {before_end};

static int take_fork(struct mux *m, uint32_t channel, const struct link_fork *fork,
                     unsigned char *command) {
  int is_bare = intake_take(&intake, channel, fork, command);
  set_row(is_bare && intake.is_row && intake.nwaiting == 1);
  is_forking = is_row;
  return is_bare;
}

static void on_command(struct mux *m) {
  intake_reset(&intake);
}

static int start_template(void) {
  char boot[sizeof PROTO_BOOT_ARG + 24];
  char *path = words[1], *cpath = path ? words[2] : NULL;
  char *argv[] = {words[0], boot, path, cpath, NULL};
  int pair[2], output[2], null_fd, intake_fd, r;
  pid_t pid = 0;
  intake_init(&intake, &mux, &intake_ops, &intake_fd);
  int n = snprintf(boot, sizeof boot, PROTO_BOOT_ARG "%d,%d", PROTO_BOOT_CONTROL_FD,
                   PROTO_BOOT_LEASH_FD);
  if (intake_fd >= 0)
    snprintf(boot + n, sizeof boot - (size_t)n, ",%d", PROTO_BOOT_INTAKE_FD);
  r = sock_pair(pair, 0);
  if (r < 0)
    return r;
  if (pipe2(leash, O_CLOEXEC) < 0 || pipe2(output, O_CLOEXEC) < 0)
    return -errno;
  null_fd = fd_open_null();
  struct proc_spawn spawn = {.program = program,
                             .argv = argv,
                             .envp = environ,
                             .control_fd = pair[1],
                             .leash_fd = leash[0],
                             .third_fd = intake_fd,
                             .stdio = {null_fd, output[1], -1}};
  r = proc_spawn(&spawn, &pid);
  fd_close(&null_fd);
  fd_close(&pair[1]);
  fd_close(&output[1]);
  fd_close(&intake_fd);
  if (r < 0)
    return r;
  tables.root = pid;
  intake_begin(&intake, pid);
  r = mux_add(&mux, LINK_CHANNEL_ROOT, pair[0], MUX_BOTH);
  if (!r)
    r = mux_add(&mux, LINK_CHANNEL_OUTPUT, output[0], MUX_FROM_LOCAL);
  uint32_t numbers[4] = {LINK_TABLE_NONE, 0, LINK_SERIAL_ROOT, (uint32_t)pid};
  return r ? r : link_put(&mux.out, LINK_BORN, 0, numbers, 4);
}

/* The near end answers at once, and then both hear whether the other one is there: before
 * that, a connection that was lost does not end. It may be this process that did not
 * run: what lies in the stream counts. */
static void on_ungreeted(uv_timer_t *t) {
  mux_read(&mux);
  if (!mux.greeted)
    fail("no near end has greeted the agent for 30 seconds");
}

static void say_hello(void) {
  buf_put(&mux.out, LINK_MARKER, LINK_MARKER_SIZE);
  link_put_hello(&mux.out, 0, 0);
  mux_flush(&mux);
  uv_timer_init(turn.loop, &ungreeted);
  uv_timer_start(&ungreeted, on_ungreeted, UNGREETED_MS, 0);
}

static int greet(const struct link_frame *f) {
  struct link_hello h;
  char text[512];
  if (mux.greeted || link_read_hello(f, 0, &h) < 0)
    return -EPROTO;
  uv_timer_stop(&ungreeted);
  if (h.version != LINK_VERSION || strcmp(h.build, build_own.version) != 0)
    fail("the versions don't match"); /* which the near end has seen, too */
  int r = start_template();
  if (r < 0) {
    snprintf(text, sizeof text, "the template program %s can't be started there: %s",
             program, strerror(-r));
    fail(text);
  }
  mux_raise_limit(&mux); /* not before: the template has inherited it */
  mux_begin(&mux, h.window);
  beat_start(&beat, &mux, h.beat_ms, NULL);
  return 0;
}

/* ---- frames ---- */

/* A child's number is its own as long as it is not reaped. */
static int take_kill(const struct link_frame *f) {
  uint32_t v[3];
  int pidfd, tree;
  set_row(0); /* its end is wanted */
  if (link_numbers(f, v, 3) < 0 || v[1] > 1024)
    return -EPROTO;
  pid_t pid = tables_pid(&tables, v[0], &pidfd, &tree);
  if (pid > 0 && tree && v[2])
    proc_kill_tree(pidfd, pid, pidfd < 0, (int)v[1]);
  else if (pid > 0)
    proc_kill(pidfd, pid, (int)v[1]);
  return 0;
}

static int take_measure(const struct link_frame *f) {
  struct proc_memory pm = {0};
  uint32_t v[2];
  int pidfd, tree;
  if (link_numbers(f, v, 2) < 0)
    return -EPROTO;
  pid_t pid = tables_pid(&tables, v[0], &pidfd, &tree);
  int r = pid > 0 ? proc_memory(pid, &pm) : -ESRCH;
  uint32_t n[10] = {v[1], (uint32_t)-r};
  const unsigned long long values[4] = {pm.pss, pm.uss, pm.rss, pm.shared};
  for (int i = 0; i < 4; i++) {
    n[2 + 2 * i] = (uint32_t)values[i];
    n[3 + 2 * i] = (uint32_t)(values[i] >> 32);
  }
  return link_put(&mux.out, LINK_MEASURED, 0, n, 10);
}

static int take_tables(const struct link_frame *f) {
  uint32_t v[3];
  if (link_numbers(f, v, f->type == LINK_TREE ? 3 : 1) < 0)
    return -EPROTO;
  if (f->type == LINK_TREE)
    return tables_mark_tree(&tables, v[0], v[1], v[2]);
  tables_drop(&tables, v[0]);
  return 0;
}

static int on_frame(struct mux *m, const struct link_frame *f) {
  switch (f->type) {
  case LINK_HELLO:
    return greet(f);
  case LINK_FAILED: /* others may have the stream's other end still */
    end(0);
    return 0;
  case LINK_KILL:
    return take_kill(f);
  case LINK_MEASURE:
    return take_measure(f);
  case LINK_RECORD_STOP:
  case LINK_RECORD_DROP:
    return records_order(&records, f);
  case LINK_TREE:
  case LINK_DROP:
    return take_tables(f);
  default:
    return -EPROTO;
  }
}

static void on_end(struct mux *m, const char *why) {
  if (why)
    fail(why);
  end(0);
}

static int has_news(struct mux *m) {
  return tables_has_news(&tables);
}

static void put_news(struct mux *m) {
  m->passed_ms = 0;
  if (tables_put_news(&tables, &mux.out) < 0)
    mux_break(m, "not enough memory");
}

static int materialise(struct mux *m, const struct link_descriptor *d, uint32_t channel) {
  if (d->kind == LINK_LEASH)
    return fd_dup(leash[0]);
  if (d->kind == LINK_RECORD)
    return records_add(&records, d, channel);
  return tables_add(&tables, d);
}

static void on_local_end(struct mux *m, uint32_t channel) {
  if (records_put(&records, channel, &mux.out) < 0 ||
      tables_put_returns(&tables, &mux.out) < 0)
    mux_break(m, "not enough memory");
  if (channel == LINK_CHANNEL_ROOT)
    intake_end_pending(&intake);
}

static void on_number_free(struct mux *m, uint32_t channel) {
  records_forget(&records, channel);
  intake_forget(&intake, channel);
}

static const struct mux_ops ops = {.on_frame = on_frame,
                                   .on_end = on_end,
                                   .has_news = has_news,
                                   .put_news = put_news,
                                   .materialise = materialise,
                                   .on_command = on_command,
                                   .take_fork = take_fork,
                                   .on_local_end = on_local_end,
                                   .on_number_free = on_number_free,
                                   .on_quiet = on_quiet};

/* What stands where the stream was: nobody over there is to write into it. */
static int take_stream(int *ret_r, int *ret_w) {
  *ret_r = fd_dup(0);
  *ret_w = fd_dup(1);
  if (*ret_r < 0 || *ret_w < 0)
    return -EBADF;
  int null_fd = fd_open_null();
  if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0)
    return -EMFILE;
  fd_close(&null_fd);
  return 0;
}

static void after(struct turn *t) {
  pass_late();
  mux_after(&mux);
  if (mux.is_deaf) { /* the near end is gone; what it has said last is read */
    mux_read(&mux);
    end(0);
  }
  if (is_forking)
    look_for_ends();
}

int remote_agent(char **template_words) {
  int rfd, wfd, r;
  words = template_words;
  program = words[0];
  signal(SIGPIPE, SIG_IGN);
  r = isatty(0) || isatty(1) ? -ENOTSUP : take_stream(&rfd, &wfd);
  if (!r)
    r = turn_init(&turn, uv_default_loop(), after);
  if (!r)
    r = turn_watch_children(&turn, reap);
  if (!r)
    r = mux_init(&mux, &turn, &ops, NULL, 1);
  if (!r)
    r = mux_open(&mux, rfd, wfd);
  if (r < 0) {
    int is_wrong = r == -ENOTSUP || r == -EPERM; /* EPERM: of epoll */
    fprintf(stderr,
            "moonfork agent: its standard input and output lead to no near end (%s); it "
            "is started by fork.remote\n",
            is_wrong ? "they are no pipes or sockets" : strerror(-r));
    return 2;
  }
  uv_timer_init(turn.loop, &late);
  tables_init(&tables, &tables_ops);
  records_init(&records);
  say_hello();
  mux_dump_on_signal(&mux);
  turn_run(&turn);
  return 0;
}
