/* host_busy.c: the worst host there is - eight threads that never sleep and a gigabyte of
 * touched memory - and the longest time for which the library kept its loop from turning.
 * A program that forked itself, or waited for anybody, would show here at once.
 *
 * What is measured: each call of a function, and each turn of the loop without waiting.
 * With more threads than processors the kernel makes everybody wait for a processor; that
 * time is not the library's, so it is taken off (run queue delay, schedstat in /proc):
 * ours, and where a program is started the new process's, for which posix_spawn waits
 * until the program is executed. Runs as parent; the template is the installed or built
 * moonfork-template. */
#include <moonfork.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

enum { NTHREADS = 8, NPROCESSES = 200, NROUND = 10 };
static const size_t BALLAST = (size_t)1 << 30;
static const double LIMIT_MS = 10.0;

/* ---- the clock: what passed, less what was spent waiting for a processor ---- */

static uint64_t delay_ns_in(const char *path) {
  unsigned long long ran = 0, delayed = 0;
  FILE *f = fopen(path, "re");
  if (!f)
    return 0;
  if (fscanf(f, "%llu %llu", &ran, &delayed) != 2)
    delayed = 0;
  fclose(f);
  return delayed;
}

static uint64_t delay_ns(void) {
  return delay_ns_in("/proc/thread-self/schedstat");
}

struct watch {
  const char *worst_name;
  double worst_ms, worst_wall_ms;
  uint64_t ncalls, start_ns, start_delay_ns;
};
static struct watch watch;

static void watch_start(void) {
  watch.start_delay_ns = delay_ns();
  watch.start_ns = uv_hrtime();
}

static void watch_stop_less(const char *name, uint64_t others_delay_ns) {
  double wall_ms = (double)(uv_hrtime() - watch.start_ns) / 1e6;
  double delay_ms = (double)(delay_ns() - watch.start_delay_ns + others_delay_ns) / 1e6;
  double ms = wall_ms > delay_ms ? wall_ms - delay_ms : 0;
  watch.ncalls++;
  if (wall_ms > watch.worst_wall_ms)
    watch.worst_wall_ms = wall_ms;
  if (ms <= watch.worst_ms)
    return;
  watch.worst_ms = ms;
  watch.worst_name = name;
}

static void watch_stop(const char *name) {
  watch_stop_less(name, 0);
}

static void check(int code, const char *name) {
  if (code >= 0)
    return;
  fprintf(stderr, "%s: %s\n", name, mf_strerror(code));
  exit(1);
}
#define TIMED(call)                                                                      \
  do {                                                                                   \
    watch_start();                                                                       \
    int code = (call);                                                                   \
    watch_stop(#call);                                                                   \
    check(code, #call);                                                                  \
  } while (0)

/* ---- the host ---- */

static atomic_int stopping;

static void *spin(void *data) {
  volatile unsigned *counter = data;
  while (!atomic_load_explicit(&stopping, memory_order_relaxed))
    ++*counter;
  return NULL;
}

static int nanswers, nexits;

static void on_run(mf_process *process, const mf_error *error, int socket, void *data) {
  if (error) {
    fprintf(stderr, "run: %s\n", error->message);
    exit(1);
  }
  close(socket);
  nanswers++;
}

static void on_exit_status(mf_process *process, const mf_exit *status, void *data) {
  nexits++;
  mf_close(process, NULL, NULL);
}

static void start_template(const mf_options *options, mf_process **ret) {
  char path[64];
  watch_start();
  int code = mf_new_exec(options, ret);
  snprintf(path, sizeof path, "/proc/%d/schedstat", code < 0 ? 0 : mf_pid(*ret));
  watch_stop_less("mf_new_exec", delay_ns_in(path));
  check(code, "mf_new_exec");
}

static void start_one(mf_process *template) {
  mf_process *clone;
  TIMED(mf_fork(template, &clone));
  TIMED(mf_send_arg(clone, "payload", 7));
  TIMED(mf_on_exit(clone, on_exit_status, NULL));
  TIMED(mf_run(clone, "work", on_run, NULL));
}

/* One turn of the loop that does not wait; the waiting is done outside, by poll. */
static void turn(uv_loop_t *loop) {
  int timeout_ms = uv_backend_timeout(loop);
  struct pollfd p = {.fd = uv_backend_fd(loop), .events = POLLIN};
  poll(&p, 1, timeout_ms < 0 || timeout_ms > 1000 ? 1000 : timeout_ms);
  watch_start();
  uv_run(loop, UV_RUN_NOWAIT);
  watch_stop("uv_run");
}

int main(void) {
  static volatile unsigned counters[NTHREADS][64];
  pthread_t threads[NTHREADS];
  char *ballast = malloc(BALLAST);
  if (!ballast) {
    puts("1..0 # SKIP no gigabyte to spare");
    return 0;
  }
  memset(ballast, 1, BALLAST);
  for (int i = 0; i < NTHREADS; i++)
    pthread_create(&threads[i], NULL, spin, (void *)(uintptr_t)&counters[i][0]);

  uv_loop_t loop;
  uv_loop_init(&loop);
  mf_options options = MF_OPTIONS_INIT;
  options.loop = &loop;
  mf_process *template;
  start_template(&options, &template);
  static const char CODE[] = "function work(socket, text) assert(text == 'payload') end";
  TIMED(mf_eval(template, CODE, strlen(CODE), 0, NULL, NULL));

  for (int started = 0; nexits < NPROCESSES;) {
    while (started < NPROCESSES && started - nexits < NROUND) {
      start_one(template);
      started++;
    }
    turn(&loop);
  }
  mf_close(template, NULL, NULL);
  while (uv_loop_alive(&loop))
    turn(&loop);
  atomic_store(&stopping, 1);
  for (int i = 0; i < NTHREADS; i++)
    pthread_join(threads[i], NULL);
  int left = uv_loop_close(&loop);
  free(ballast);

  printf("%d processes, %llu calls and turns beside %d busy threads and %zu MiB\n",
         nanswers, (unsigned long long)watch.ncalls, (int)NTHREADS, BALLAST >> 20);
  printf("longest: %.3f ms in %s (%.3f ms with the wait for a processor)\n",
         watch.worst_ms, watch.worst_name, watch.worst_wall_ms);
  return nanswers == NPROCESSES && watch.worst_ms < LIMIT_MS && left == 0 ? 0 : 1;
}
