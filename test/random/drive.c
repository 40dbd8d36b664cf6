/* drive: the C API in random schedules, with real processes. Runs as a parent.
 *
 *   drive [--seconds S] [--rounds N] [--seed N] [--verbose] [--hostile PROGRAM | --threads]
 *
 * A round makes processes, forks, rpcs and pools, asks them for anything with good and
 * bad values, kills and stops them, and closes each at a random moment; a part of it
 * happens inside callbacks. With --hostile the template program is PROGRAM, which says
 * what it likes; --threads: drive_threads.c. What must hold in each round (beside what
 * round.h looks at):
 *
 *   - each callback comes once, later than the call that took it, before its owner is
 *     closed
 *   - everything is closed within CLOSE_S, and the loop has no handle left
 *   - descriptors and children are as before
 *   - while nothing is under way nobody uses the processor
 *
 * A round is played again by its seed; the kernel's timing is not. */
#include "drive.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>

const char *program;
double slowness = 1;
int inside;
int depth;
int closing_all;
int somebody_hangs;
uv_loop_t *loop;

int telling;
double began;

int call_end(const char *what, int r) {
  inside--;
  if (telling)
    printf("# %.3f %*s%s = %d\n", round_now() - began, 2 * depth, "", what, r);
  return r;
}

/* ---- what happens ---- */

static void act_on_anything(void) {
  switch (random_below(24)) {
  case 0:
  case 1:
    make_proc();
    break;
  case 2:
  case 3:
    fork_proc();
    break;
  case 4:
  case 5:
  case 6:
    prepare_proc();
    break;
  case 7:
  case 8:
    run_proc();
    break;
  case 9:
  case 10:
    ask_proc();
    break;
  case 11:
    close_proc((int)random_below(PROCS));
    break;
  case 12:
    make_rpc();
    break;
  case 13:
  case 14:
  case 15:
    use_rpc();
    break;
  case 16:
    make_pool();
    break;
  case 17:
  case 18:
  case 19:
    use_pool();
    break;
  case 20:
    if (random_one_in(3))
      close_rpc((int)random_below(RPCS));
    break;
  case 21:
    if (random_one_in(6))
      close_pool((int)random_below(POOLS));
    break;
  case 22:
    if (nsockets)
      close_socket((int)random_below((uint32_t)nsockets));
    break;
  default:
    adopt();
    if (random_one_in(12))
      DO(mf_reset(loop));
  }
}

void (*act)(void) = act_on_anything;

static uv_timer_t timer;

static void on_timer(uv_timer_t *t) {
  (void)t;
}

static uint64_t own_ns(void) {
  struct timespec ts;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
  return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static int with_threads;

/* One turn of the loop; no peer and no queue may keep it busy for long. When the kernel
 * reaps a process it removes what /proc has of it, threads above all, and where somebody
 * else removes such things, too, it waits busily: 2 s were seen on a loaded machine. */
static void turn_once(uv_run_mode mode) {
  static double worst_ms;
  uint64_t before = own_ns();
  uv_run(loop, mode);
  double ms = (double)(own_ns() - before) / 1e6;
  if (telling && ms > worst_ms)
    printf("# a turn of %.1f ms\n", worst_ms = ms);
  if (ms > STALL_MS * slowness * (with_threads ? 10 : 1))
    FAIL("one turn of the loop took %.0f ms of processor time", ms);
}

void turn(unsigned ms, int (*enough)(void)) {
  double last = round_now() + ms / 1000.0;
  uv_timer_start(&timer, on_timer, ms < 5 ? ms : 5, 5);
  while (round_now() < last && !(enough && enough()))
    turn_once(UV_RUN_ONCE);
  uv_timer_stop(&timer);
}

/* ---- who uses the processor ---- */

static int is_ours(long pid, const long *parents, const long *pids, int n) {
  for (int depth_left = 50; depth_left && pid > 1; depth_left--) {
    if (pid == (long)getpid())
      return 1;
    long parent = 0;
    for (int i = 0; i < n; i++)
      if (pids[i] == pid)
        parent = parents[i];
    pid = parent;
  }
  return 0;
}

/* Nanoseconds on a processor, of all that descends from us. The name of who used most. */
static uint64_t descendants_ns(void) {
  enum { MOST = 4096 };
  static long pids[MOST], parents[MOST];
  uint64_t sum = 0;
  int n = 0;
  DIR *dir = opendir("/proc");
  for (struct dirent *e; dir && (e = readdir(dir)) && n < MOST;) {
    char path[300], text[512], *p;
    long pid = atol(e->d_name);
    if (pid <= 0)
      continue;
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *f = fopen(path, "r");
    size_t got = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f)
      fclose(f);
    text[got] = 0;
    p = strrchr(text, ')');
    if (!p || sscanf(p + 1, " %*c %ld", &parents[n]) != 1)
      continue;
    pids[n++] = pid;
  }
  if (dir)
    closedir(dir);
  for (int i = 0; i < n; i++) {
    char path[64];
    unsigned long long ns = 0;
    if (pids[i] == (long)getpid() || !is_ours(pids[i], parents, pids, n))
      continue;
    snprintf(path, sizeof path, "/proc/%ld/schedstat", pids[i]);
    FILE *f = fopen(path, "r");
    if (f && fscanf(f, "%llu", &ns) == 1)
      sum += ns;
    if (f)
      fclose(f);
  }
  return sum;
}

static int nothing_is_due(void) {
  return nasked(0) == 0;
}

/* Waits until nothing is under way, and sees whether somebody works all the same. What
 * has begun late (a spare, a worker that goes) gets three more chances. */
static void check_quiet(void) {
  double mine = 0, theirs = 0;
  turn(1500, nothing_is_due);
  if (!nothing_is_due())
    return;
  for (int i = 0; i < 4; i++) {
    turn(50, NULL);
    uint64_t they = descendants_ns(), we = own_ns();
    turn(QUIET_MS, NULL);
    we = own_ns() - we;
    uint64_t now = descendants_ns();
    mine = (double)we / 1e6;
    theirs =
        now > they ? (double)(now - they) / 1e6 : 0; /* who has ended counts no more */
    if (mine < QUIET_CPU_MS * slowness && theirs < QUIET_CPU_MS * slowness)
      return;
  }
  FAIL("idle, and in %d ms we use the processor for %.1f ms, our processes for %.1f ms",
       QUIET_MS, mine, theirs);
}

/* ---- a round ---- */

static int list_fds(char *marks) {
  int n = 0;
  memset(marks, 0, FDS_MAX);
  DIR *dir = opendir("/proc/self/fd");
  for (struct dirent *e; dir && (e = readdir(dir));) {
    int fd = atoi(e->d_name);
    if (e->d_name[0] == '.' || fd == dirfd(dir) || fd >= FDS_MAX)
      continue;
    marks[fd] = 1;
    n++;
  }
  if (dir)
    closedir(dir);
  return n;
}

static void compare_fds(const char *before) {
  char after[FDS_MAX];
  double last = round_now() + 3 * slowness;
  do {
    list_fds(after);
    if (memcmp(before, after, FDS_MAX) == 0)
      return;
    uv_run(loop, UV_RUN_NOWAIT);
    usleep(2000);
  } while (round_now() < last);
  for (int fd = 0; fd < FDS_MAX; fd++) {
    char path[64], to[200] = "?";
    if (before[fd] == after[fd])
      continue;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(path, to, sizeof to - 1);
    to[n < 0 ? 0 : n] = 0;
    fprintf(stderr, "descriptor %d %s %s\n", fd, after[fd] ? "leaks:" : "was closed", to);
  }
  abort();
}

static const struct owner *who_is_not_closed(void) {
  for (int i = 0; i < nkept; i++)
    if (owners[i] && !owners[i]->open && !owners[i]->closed)
      return owners[i];
  return NULL;
}

int everything_is_closed(void) {
  return !who_is_not_closed();
}

static int nclosing;

static void on_warm_closed(mf_process *p, void *data) {
  (void)p;
  (void)data;
  nclosing--;
}

static void warm_told(mf_process *p, const mf_error *e, int fd, void *data) {
  (void)p;
  (void)e;
  *(int *)data = 1;
  if (fd >= 0)
    close(fd);
}

/* A job of each kind: what is made at first use and kept is there now. */
static void warm_up(void) {
  mf_options o;
  mf_process *p[2] = {NULL, NULL};
  int told[2] = {0, 0};
  mf_options_init(&o);
  o.loop = loop;
  o.stdio[2].kind = MF_STDIO_NULL;
  CHECK(mf_new(&o, &p[0]) == 0 && mf_new_exec(&o, &p[1]) == 0);
  for (int i = 0; i < 2; i++)
    CHECK(mf_run(p[i], "type", warm_told, &told[i]) == 0);
  double last = round_now() + 10 * slowness;
  while ((!told[0] || !told[1]) && !program && round_now() < last)
    uv_run(loop, UV_RUN_ONCE);
  for (int i = 0; i < 2; i++) {
    nclosing++;
    mf_close(p[i], on_warm_closed, NULL);
  }
  mf_reset(loop);
  while (nclosing && round_now() < last)
    uv_run(loop, UV_RUN_ONCE);
  CHECK(nclosing == 0);
  double end = round_now() + 5 * slowness;
  while (uv_run(loop, UV_RUN_NOWAIT) && round_now() < end)
    usleep(500);
  CHECK(!uv_loop_alive(loop));
}

/* Makes the library look after what has ended meanwhile, without a new process. */
static void nudge(void) {
  mf_options o;
  mf_process *p = NULL;
  mf_options_init(&o);
  o.loop = loop;
  o.program = "/no/such/program";
  CHECK(mf_new_exec(&o, &p) == 0);
  nclosing++;
  mf_close(p, on_warm_closed, NULL);
  while (nclosing)
    uv_run(loop, UV_RUN_ONCE);
}

static void check_childless(void) {
  double last = round_now() + 5 * slowness;
  siginfo_t info;
  while (round_now() < last) {
    info.si_pid = 0;
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD)
      return;
    usleep(5000);
    if (info.si_pid)
      nudge();
  }
  char command[100];
  snprintf(command, sizeof command, "ps -o pid,stat,wchan:20,time,args --ppid %ld >&2",
           (long)getpid());
  if (system(command) < 0)
    FAIL("a child stays");
  FAIL("a child of %d stays", (int)getpid());
}

static void close_all(void) {
  closing_all = 1;
  for (int i = 0; i < PROCS + RPCS + POOLS; i++) { /* in any order */
    close_proc((int)random_below(PROCS));
    close_rpc((int)random_below(RPCS));
    close_pool((int)random_below(POOLS));
  }
  while (nsockets)
    close_socket(0);
  for (int i = 0; i < POOLS; i++)
    close_pool(i);
  for (int i = 0; i < RPCS; i++)
    close_rpc(i);
  for (int i = 0; i < PROCS; i++)
    close_proc(i);
  DO(mf_reset(loop));
  double start = round_now(), last = start + CLOSE_S * slowness;
  int shown = !telling;
  while (round_now() < last && !everything_is_closed()) {
    turn(20, everything_is_closed);
    if (!shown && round_now() > start + 4) {
      shown = 1; /* who is waited for, and what it does */
      tell("waiting for", who_is_not_closed() ? who_is_not_closed() : owners[0]);
      if (system("ps -eo pid,ppid,stat,wchan:25,time,args | grep moonfork") < 0)
        FAIL("system");
    }
  }
  while (nsockets) /* what a callback has brought */
    close_socket(0);
  const struct owner *o = who_is_not_closed();
  if (o)
    FAIL("%s %d is not closed after %d s", o->kind, o->number, CLOSE_S);
}

static void free_all(void) {
  while (asks) {
    struct ask *a = asks;
    asks = a->next;
    if (!a->told && !a->spare)
      FAIL("%s of %s %d: never told", a->what, a->owner->kind, a->owner->number);
    free(a);
  }
  for (int i = 0; i < nkept; i++) {
    CHECK(owners[i] || *(int *)kept[i] == 2); /* what was lent was released */
    free(kept[i]);
  }
}

static void check_memory(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  if (telling)
    printf("# %ld MB at most\n", usage.ru_maxrss / 1024);
  if (slowness == 1 &&
      usage.ru_maxrss / 1024 > MEMORY_MB) /* a sanitizer keeps what is freed */
    FAIL("%ld MB of memory", usage.ru_maxrss / 1024);
}

static void on_loop_closed(uv_handle_t *h) {
  (void)h;
}

static void play(void) {
  int quiet_at = (int)random_below(2 * STEPS);
  for (int i = 0; i < STEPS; i++) {
    act();
    if (random_one_in(3))
      turn(random_below(random_one_in(8) ? 60 : 8), NULL);
    else if (random_one_in(2))
      turn_once(UV_RUN_NOWAIT);
    if (i == quiet_at && !program && !somebody_hangs)
      check_quiet();
  }
  close_all();
}

static int drive_round(uint64_t seed) {
  telling = getenv("DRIVE_TELL") != NULL;
  setvbuf(stdout, NULL, _IOLBF, 0);
  began = round_now();
  static uv_loop_t own;
  char fds[FDS_MAX];
  char text[32];
  snprintf(text, sizeof text, "%llu", (unsigned long long)seed);
  setenv("HOSTILE_SEED", text, 1);
  snprintf(text, sizeof text, "%ld", (long)getpid());
  setenv("HOSTILE_DRIVER", text, 1);
  if (round_is_confined()) {
    setenv("HOSTILE_CONFINED", "1", 1);
    setenv("HOSTILE_VICTIM", getenv("ROUND_STRANGER"), 1);
  }
  memset(bytes, 'x', sizeof bytes);
  loop = &own;
  CHECK(uv_loop_init(loop) == 0);
  uv_timer_init(loop, &timer);
  turn(1, NULL); /* libuv ends the program where its first turn has no descriptors */
  warm_up();
  check_childless();
  list_fds(fds);
  if (with_threads)
    play_threads();
  else
    play();
  check_childless();
  compare_fds(fds);
  uv_close((uv_handle_t *)&timer, on_loop_closed);
  double last = round_now() + 3 * slowness;
  while (uv_run(loop, UV_RUN_NOWAIT) && round_now() < last)
    usleep(1000);
  CHECK(!uv_loop_alive(loop));
  CHECK(uv_loop_close(loop) == 0);
  free_all();
  check_memory();
  return 0;
}

static _Noreturn void usage(void) {
  fprintf(stderr, "usage: drive [--seconds S] [--rounds N] [--seed N] [--verbose] "
                  "[--hostile PROGRAM | --threads]\n");
  exit(2);
}

int main(int argc, char **argv) {
  static char replay[600];
  struct rounds r = {.name = "random: the C API",
                     .seconds = 10,
                     .deadline_s = 60,
                     .first_seed =
                         (uint64_t)time(NULL) * 1000 + (uint64_t)getpid() % 1000};
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--verbose") == 0)
      r.verbose = 1;
    else if (strcmp(argv[i], "--threads") == 0)
      with_threads = 1;
    else if (i + 1 == argc)
      usage();
    else if (strcmp(argv[i], "--seconds") == 0)
      r.seconds = atof(argv[++i]);
    else if (strcmp(argv[i], "--rounds") == 0)
      r.count = atol(argv[++i]);
    else if (strcmp(argv[i], "--seed") == 0)
      r.first_seed = strtoull(argv[++i], NULL, 10), r.count = r.count ? r.count : 1;
    else if (strcmp(argv[i], "--hostile") == 0)
      program = argv[++i];
    else
      usage();
  }
  if (getenv("STORY_SCALE"))
    slowness = atof(getenv("STORY_SCALE"));
  r.deadline_s = (unsigned)(r.deadline_s * slowness);
  if (program) {
    if (!getenv("MOONFORK_TEMPLATE"))
      usage();
    setenv("HOSTILE_REAL", getenv("MOONFORK_TEMPLATE"), 1);
    setenv("MOONFORK_TEMPLATE", program, 1);
    r.name = "random: the C API against a hostile template program";
    r.confined = 1;
  }
  if (with_threads)
    r.name = "random: clones in threads, with the C API";
  snprintf(replay, sizeof replay, "%s%s%s%s --seed", argv[0],
           with_threads ? " --threads" : "", program ? " --hostile " : "",
           program ? program : "");
  r.replay = replay;
  return rounds_run(&r, drive_round) > 0;
}
