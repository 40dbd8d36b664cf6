#include "round.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static uint64_t state;
static int confined;

void random_seed(uint64_t seed) {
  state = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
  for (int i = 0; i < 4; i++)
    random_below(2);
}

/* splitmix64 */
uint32_t random_below(uint32_t n) {
  uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return (uint32_t)((z ^ z >> 31) >> 11) % n;
}

double round_now(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int round_is_confined(void) {
  return confined;
}

static void show(FILE *f) {
  char line[1024];
  rewind(f);
  while (fgets(line, sizeof line, f))
    printf("  %s%s", line, strchr(line, '\n') ? "" : "\n");
}

/* What descends from a round that has ended comes to us. 1 when some of it stays. */
static int somebody_stays(double seconds) {
  double last = round_now() + seconds;
  int status, stayed = 0;
  for (;;) {
    pid_t pid = waitpid(-1, &status, WNOHANG);
    if (pid < 0 && errno == ECHILD)
      return stayed;
    if (pid > 0)
      continue;
    if (!stayed && round_now() > last) {
      char command[80];
      stayed = 1;
      fflush(stdout);
      snprintf(command, sizeof command,
               "ps -o pid,ppid,stat,args --ppid %ld 2>&1 | grep -v ps", (long)getpid());
      if (system(command) < 0)
        printf("  (there is no ps)\n");
    }
    if (stayed) {
      siginfo_t info;
      char path[64], text[64];
      snprintf(path, sizeof path, "/proc/self/task/%ld/children", (long)getpid());
      FILE *f = fopen(path, "r");
      while (f && fscanf(f, "%63s", text) == 1)
        kill((pid_t)atol(text), SIGKILL);
      if (f)
        fclose(f);
      if (waitid(P_ALL, 0, &info, WEXITED) < 0)
        return 1;
      continue;
    }
    usleep(2000);
  }
}

/* Somebody whom the round has nothing to do with: its pid is in ROUND_STRANGER. */
static pid_t make_stranger(void) {
  char text[32];
  pid_t pid = fork();
  if (pid == 0)
    for (;;)
      pause();
  snprintf(text, sizeof text, "%ld", (long)pid);
  setenv("ROUND_STRANGER", text, 1);
  return pid;
}

/* The first process of the namespace: reaps, and ends as the round did, if only the
 * stranger is left. */
static _Noreturn void be_first(pid_t round, pid_t stranger) {
  int status, own;
  while (waitpid(round, &status, 0) < 0 && errno == EINTR)
    continue;
  if (WIFSIGNALED(status))
    fprintf(stderr, "ended by signal %d\n", WTERMSIG(status));
  own = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
  if (waitpid(stranger, &status, WNOHANG) != 0) {
    fprintf(stderr, "a stranger was killed\n");
    _exit(1);
  }
  kill(stranger, SIGKILL);
  for (double last = round_now() + 3; round_now() < last; usleep(1000))
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) != 0;)
      if (pid < 0 && errno == ECHILD)
        _exit(own);
  fprintf(stderr, "processes of the round stay\n");
  _exit(1);
}

/* The round as a process of a namespace: signals to "everybody" stay in it. */
static int enter_namespace(void) {
  if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0)
    return -1;
  pid_t pid = fork();
  if (pid < 0)
    return -1;
  if (pid > 0) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
      continue;
    if (WIFSIGNALED(status))
      fprintf(stderr, "the namespace ended by signal %d\n", WTERMSIG(status));
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
  }
  mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
  if (mount("proc", "/proc", "proc", 0, NULL) < 0)
    return -1;
  pid_t stranger = make_stranger();
  pid = fork();
  if (pid < 0)
    return -1;
  if (pid > 0)
    be_first(pid, stranger);
  confined = 1;
  return 0;
}

static _Noreturn void child(const struct rounds *r, int (*round)(uint64_t), uint64_t seed,
                            FILE *err) {
  int in = open("/dev/null", O_RDONLY | O_CLOEXEC);
  setpgid(0, 0);
  dup2(in, 0);
  dup2(fileno(err), 2);
  close(in);
  fclose(err);
  setvbuf(stderr, NULL, _IONBF, 0);
  if (r->confined && geteuid() == 0 && enter_namespace() < 0)
    _exit(77);
  alarm(r->deadline_s);
  random_seed(seed);
  exit(round(seed)); /* exit: leaks are looked for on the way */
}

/* Waits for it; past its deadline its whole group is killed. */
static int wait_for(pid_t pid, unsigned deadline_s) {
  double last = round_now() + deadline_s + 5;
  int status;
  for (;;) {
    pid_t got = waitpid(pid, &status, WNOHANG);
    if (got == pid)
      return status;
    if (round_now() > last)
      kill(-pid, SIGKILL);
    usleep(1000);
  }
}

static int one(const struct rounds *r, int (*round)(uint64_t), uint64_t seed) {
  FILE *err = tmpfile();
  if (!err)
    return -1;
  double began = round_now();
  fflush(NULL);
  pid_t pid = fork();
  if (pid < 0)
    return -1;
  if (pid == 0)
    child(r, round, seed, err);
  int status = wait_for(pid, r->deadline_s);
  int stays = somebody_stays(3);
  fseek(err, 0, SEEK_END);
  int silent = ftell(err) == 0;
  int good = WIFEXITED(status) && WEXITSTATUS(status) == 0 && silent && !stays;
  if (!good) {
    printf("not ok seed %llu after %.1f s: ", (unsigned long long)seed,
           round_now() - began);
    if (WIFSIGNALED(status))
      printf("ended by signal %d%s", WTERMSIG(status),
             WTERMSIG(status) == SIGALRM ? " (its deadline)" : "");
    else
      printf("status %d", WEXITSTATUS(status));
    printf("%s%s; again: %s %llu\n", silent ? "" : ", said something",
           stays ? ", left processes" : "", r->replay, (unsigned long long)seed);
    show(err);
  } else if (r->verbose) {
    printf("ok seed %llu, %.2f s\n", (unsigned long long)seed, round_now() - began);
  }
  fflush(stdout);
  fclose(err);
  return good ? 0 : 1;
}

int rounds_run(const struct rounds *given, int (*round)(uint64_t seed)) {
  struct rounds with = *given, *r = &with;
  if (getenv("RANDOM_REPLAY")) /* what a person types */
    with.replay = getenv("RANDOM_REPLAY");
  double last = round_now() + r->seconds;
  long n = 0;
  int bad = 0;
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  printf("# %s: seeds from %llu on; one of them again: %s SEED\n", r->name,
         (unsigned long long)r->first_seed, r->replay);
  while (r->count ? n < r->count : round_now() < last) {
    int result = one(r, round, r->first_seed + (uint64_t)n);
    if (result < 0) {
      printf("not ok: %s\n", strerror(errno));
      return 1;
    }
    bad += result;
    n++;
  }
  printf("%ld passed, %d failed\n", n - bad, bad);
  return bad;
}
