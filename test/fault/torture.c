/* torture: asks every call that the parent's side makes "and if you fail?".
 *
 * Runs as a parent, with shim.so preloaded. A small job - a template, a fork with a
 * handle and arguments, a function, its exit, the closes - is done once in peace; then
 * for each kind of call and each n once more in a forked copy of this program, the n-th
 * call of that kind failing, once or from there on. However it goes, every callback must
 * have come once, the loop must close, and descriptors and children must be as before;
 * and then the same job must work.
 *
 *   LD_PRELOAD=shim.so torture [DEPTH [KIND]]     DEPTH calls of each kind, default 25;
 *                                                 0: all
 *
 * libuv ends the program when it can't grow its table of descriptors or when epoll_ctl
 * fails; so the loop has been used before anything is made to fail, and epoll_ctl is not.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <moonfork.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

static void (*arm)(const char *names, long at, int number, int once);
static long (*hits)(void);
static void (*disarm)(void);

enum { MAX_FDS = 1024 };

static double job_seconds =
    8; /* after which a job hangs; more in the sweep of everything */

static const struct {
  const char *name;
  int number;
} kinds[] = {
    {"malloc", 0},      {"calloc", 0},       {"realloc", 0},       {"dup", 0},
    {"socketpair", 0},  {"fcntl", EMFILE},   {"pipe", 0},          {"eventfd", 0},
    {"posix_spawn", 0}, {"sendmsg", EINTR},  {"sendmsg", ENOBUFS}, {"sendmsg", EPIPE},
    {"recvmsg", EINTR}, {"recvmsg", ENOMEM}, {"read", EINTR},      {"read", ECONNRESET},
    {"write", EINTR},   {"write", EPIPE},    {"open", 0},          {"mmap", 0},
};

/* EINTR for ever is nothing a kernel does; ENOBUFS for ever is waited out, until a
 * deadline that only the sweep of everything has the time for. */
static int sensible(int number, int once, int everything) {
  if (once)
    return 1;
  return number != EINTR && (number != ENOBUFS || everything);
}

/* ---- one job ---- */

struct job {
  uv_loop_t *loop;
  mf_process *template, *clone;
  int asked_run, got_run, asked_exit, got_exit, asked_close, got_close;
  int failed;
  int socket;
};

static void on_run(mf_process *p, const mf_error *error, int socket, void *data) {
  struct job *job = data;
  (void)p;
  job->got_run++;
  if (error) {
    job->failed = error->code;
    if (error->code >= 0 || !error->message || socket != -1)
      abort();
    return;
  }
  job->socket = socket;
  close(socket);
}

static void on_exit_told(mf_process *p, const mf_exit *status, void *data) {
  struct job *job = data;
  (void)p;
  (void)status;
  job->got_exit++;
}

static void on_close(mf_process *p, void *data) {
  struct job *job = data;
  (void)p;
  job->got_close++;
}

static void prepare(struct job *job) {
  static const char *const argv[] = {"one", "two"};
  static const size_t lengths[] = {3, 3};
  mf_options options = MF_OPTIONS_INIT;
  options.loop = job->loop;
  if (mf_new_exec(&options, &job->template) != 0)
    return;
  mf_require(job->template, "string");
  mf_eval(job->template, "x, y = ...", 10, 2, argv, lengths);
  if (mf_fork(job->template, &job->clone) != 0)
    return;
  mf_send_arg(job->clone, "argument", 8);
  mf_send_fd(job->clone, 0);
  if (mf_on_exit(job->clone, on_exit_told, job) == 0)
    job->asked_exit = 1;
  if (mf_run(job->clone, "type", on_run, job) == 0)
    job->asked_run = 1;
}

static int complete(const struct job *job) {
  return job->got_run >= job->asked_run && job->got_exit >= job->asked_exit;
}

static double now(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void turn_until(struct job *job, int (*done)(const struct job *)) {
  double last = now() + job_seconds;
  while (!done(job) && uv_run(job->loop, UV_RUN_ONCE) && now() < last)
    continue;
}

static int closed(const struct job *job) {
  return job->got_close >= job->asked_close;
}

/* Closes in the order that is harder: the source first. */
static void finish(struct job *job) {
  if (job->template) {
    job->asked_close++;
    mf_close(job->template, on_close, job);
  }
  if (job->clone) {
    job->asked_close++;
    mf_close(job->clone, on_close, job);
  }
  turn_until(job, closed);
}

/* Returns NULL, or what was wrong. */
static const char *run_job(uv_loop_t *loop, int *ret_failed) {
  struct job job = {.loop = loop, .socket = -1};
  prepare(&job);
  turn_until(&job, complete);
  int waited = complete(&job);
  finish(&job);
  disarm();
  uv_run(loop, UV_RUN_DEFAULT);
  *ret_failed = job.failed;
  if (!waited && (job.asked_run || job.asked_exit)) {
    if (job.got_run < job.asked_run)
      return "the run callback did not come before close";
    return "the exit callback did not come before close";
  }
  if (job.got_run != job.asked_run)
    return "run callbacks are not one each";
  if (job.got_exit != job.asked_exit)
    return "exit callbacks are not one each";
  if (job.got_close != job.asked_close)
    return "close callbacks are not one each";
  if (uv_loop_alive(loop))
    return "the loop is still alive";
  return NULL;
}

/* ---- what must be as before ---- */

static int list_fds(char *marks) {
  memset(marks, 0, MAX_FDS);
  DIR *dir = opendir("/proc/self/fd");
  if (!dir)
    return -1;
  int count = 0;
  for (struct dirent *entry; (entry = readdir(dir));) {
    int fd = atoi(entry->d_name);
    if (entry->d_name[0] == '.' || fd == dirfd(dir) || fd >= MAX_FDS)
      continue;
    marks[fd] = 1;
    count++;
  }
  closedir(dir);
  return count;
}

static const char *compare_fds(const char *before) {
  char after[MAX_FDS];
  list_fds(after);
  for (int fd = 0; fd < MAX_FDS; fd++)
    if (before[fd] != after[fd])
      return before[fd] ? "a descriptor was closed" : "a descriptor leaks";
  return NULL;
}

/* Waits until there is no child; returns 1 when one has ended and nobody has reaped it.
 */
static int wait_childless(const char **ret_wrong) {
  double last = now() + 3;
  siginfo_t info;
  while (now() < last) {
    info.si_pid = 0;
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD)
      return 0;
    if (info.si_pid && now() > last - 2.5)
      return 1;
    usleep(2000);
  }
  *ret_wrong = "a child is left";
  return 0;
}

/* In a copy of the program: a job in peace, one with a failure, one in peace again. A
 * child that could not be watched for lack of memory may wait for a later job to be
 * reaped. */
static const char *three_jobs(uv_loop_t *loop, const char *kind, int number, long at,
                              int once, long *ret_hits) {
  char fds[MAX_FDS];
  int failed = 0;
  const char *wrong = run_job(loop, &failed);
  if (wrong || failed)
    return wrong ? wrong : "the first job fails";
  list_fds(fds);
  arm(kind, at, number, once);
  wrong = run_job(loop, &failed);
  *ret_hits = hits();
  if (!wrong)
    wrong = compare_fds(fds);
  if (wrong)
    return wrong;
  for (int i = 0; i < 3; i++) {
    if (run_job(loop, &failed) != NULL)
      return "the next job is not orderly";
    if (failed)
      return "the next job fails";
    wrong = compare_fds(fds);
    if (wrong || !wait_childless(&wrong))
      return wrong;
  }
  return "a child is not reaped";
}

static void try_once(const char *kind, int number, long at, int once) {
  uv_loop_t loop;
  long nhits = 0;
  alarm((unsigned)(2 * job_seconds));
  if (uv_loop_init(&loop) != 0)
    _exit(3);
  const char *wrong = three_jobs(&loop, kind, number, at, once, &nhits);
  if (!wrong && uv_loop_close(&loop) != 0)
    wrong = "the loop can't be closed";
  if (wrong)
    fprintf(stderr, "%s number %ld fails %s (%s): %s\n", kind, at,
            once ? "once" : "from there on", strerror(number), wrong);
  _exit(wrong ? 1 : nhits > 0 ? 0 : 2);
}

/* 0: fine; 1: not; 2: there were not so many calls */
static int in_a_copy(const char *kind, int number, long at, int once) {
  double before = now();
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0)
    try_once(kind, number, at, once);
  int status;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
    continue;
  if (now() - before > 5)
    fprintf(stderr, "%s number %ld fails %s: took %.0f s\n", kind, at,
            once ? "once" : "from there on", now() - before);
  if (WIFEXITED(status))
    return WEXITSTATUS(status);
  fprintf(stderr, "%s number %ld fails %s: ended by signal %d\n", kind, at,
          once ? "once" : "from there on", WTERMSIG(status));
  return 1;
}

static int sweep(size_t i, long depth, int once, long *ret_runs) {
  int bad = 0;
  for (long at = 1; depth == 0 || at <= depth; at++) {
    int result = in_a_copy(kinds[i].name, kinds[i].number, at, once);
    (*ret_runs)++;
    if (result == 2)
      break;
    if (result != 0)
      bad++;
  }
  return bad;
}

static int find_shim(void) {
  *(void **)&arm = dlsym(RTLD_DEFAULT, "shim_arm");
  *(void **)&hits = dlsym(RTLD_DEFAULT, "shim_hits");
  *(void **)&disarm = dlsym(RTLD_DEFAULT, "shim_disarm");
  return arm && hits && disarm;
}

int main(int argc, char **argv) {
  long depth = argc > 1 ? atol(argv[1]) : 25, runs = 0;
  int bad = 0;
  if (!find_shim()) {
    fprintf(stderr, "torture: needs shim.so in LD_PRELOAD\n");
    return 77;
  }
  if (depth == 0)
    job_seconds = 40;
  unsetenv("LD_PRELOAD"); /* the templates are not tortured */
  if (in_a_copy("none", 0, 1, 1) != 2)
    return 1;
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    if (argc > 2 && strcmp(argv[2], kinds[i].name) != 0)
      continue;
    for (int once = 1; once >= 0; once--)
      if (sensible(kinds[i].number, once, depth == 0))
        bad += sweep(i, depth, once, &runs);
  }
  printf("%ld runs, %d bad\n", runs, bad);
  return bad > 0;
}
