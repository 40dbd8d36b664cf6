/* The contestant moonfork in C: a host on libmoonfork. MOONFORK_TEMPLATE names the
 * template program.
 *
 *   host spawn|first INFLIGHT HEAP_MIB SPARES [PAUSE_US]    see bench.h
 *   host exec COUNT                microseconds from mf_new_exec to the entered function
 *   host clones COUNT              COUNT idle clones at once, or as many as the limit of
 *                                  descriptors (nofile) allows: seconds, memory of one
 *   host memory HEAP_MIB TABLES    private bytes of a clone, idle and after TABLES tables
 *
 * A process has ended when the end of its socket, its exit status and the close callback
 * of its handle have come. */
#include "bench.h"

#include <moonfork.h>
#include <sys/resource.h>
#include <uv.h>

static uv_loop_t loop;
static mf_process *template;
static struct plan plan;
static double us[SLICE_MAX];
static int nslice, nstarted, nended;

static void check(int code, const char *what) {
  if (code >= 0)
    return;
  fprintf(stderr, "%s: %s\n", what, mf_strerror(code));
  exit(1);
}

static void fail(const char *what, const mf_error *error) {
  fprintf(stderr, "%s: %s\n", what, error->message);
  exit(1);
}

/* ---- processes ---- */

struct life {
  uv_pipe_t pipe; /* owns the clone's socket */
  mf_process *process;
  double start_us, first_us;
  int nopen; /* ends that have not come: socket, exit, handle */
  char room[64];
};

static void start_life(void);

static void end_life(struct life *l) {
  if (--l->nopen > 0)
    return;
  us[nended++] = l->first_us - l->start_us;
  free(l);
  if (nstarted < nslice && !plan.pause_us)
    start_life();
}

static void on_pipe_closed(uv_handle_t *handle) {
  end_life(handle->data);
}
static void on_closed(mf_process *p, void *data) {
  end_life(data);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
  struct life *l = handle->data;
  *buf = uv_buf_init(l->room, sizeof l->room);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
  struct life *l = stream->data;
  if (n > 0 && l->first_us == 0)
    l->first_us = now_us();
  else if (n < 0)
    uv_close((uv_handle_t *)stream, on_pipe_closed);
}

static void on_run(mf_process *p, const mf_error *error, int socket, void *data) {
  struct life *l = data;
  if (error)
    fail("run", error);
  /* What is there already is read at once: most clones have written, or ended, by now. */
  ssize_t n = read(socket, l->room, sizeof l->room);
  if (n > 0)
    l->first_us = now_us();
  if (n == 0) {
    close(socket);
    end_life(l);
    return;
  }
  uv_pipe_init(&loop, &l->pipe, 0);
  l->pipe.data = l;
  uv_pipe_open(&l->pipe, socket);
  uv_read_start((uv_stream_t *)&l->pipe, on_alloc, on_read);
}

static void on_exit_status(mf_process *p, const mf_exit *status, void *data) {
  struct life *l = data;
  if (!status->known || status->code || status->signal) {
    fprintf(stderr, "a clone ended badly: code %d, signal %d\n", status->code,
            status->signal);
    exit(1);
  }
  mf_close(p, on_closed, l);
  end_life(l);
}

static void start_life(void) {
  struct life *l = calloc(1, sizeof *l);
  if (!l)
    give_up("calloc");
  l->nopen = 3;
  l->start_us = now_us();
  nstarted++;
  check(mf_fork(template, &l->process), "mf_fork");
  check(mf_on_exit(l->process, on_exit_status, l), "mf_on_exit");
  check(mf_run(l->process, plan.first ? "first" : "nothing", on_run, l), "mf_run");
}

static int ready;
static void on_ready(mf_process *p, const mf_error *error, const mf_memory_info *info,
                     void *data) {
  if (error)
    fail("memory", error);
  if (info && data)
    *(mf_memory_info *)data = *info;
  ready = 1;
}

/* Waits until all that p was told is executed. */
static void settle(mf_process *p, mf_memory_info *ret) {
  ready = 0;
  check(mf_memory(p, on_ready, ret), "mf_memory");
  while (!ready)
    uv_run(&loop, UV_RUN_ONCE);
}

static void eval(mf_process *p, const char *code) {
  check(mf_eval(p, code, strlen(code), 0, NULL, NULL), "mf_eval");
}

static mf_process *open_template(int spares, int heap_mib) {
  mf_options options = MF_OPTIONS_INIT;
  mf_process *p;
  options.loop = &loop;
  options.spares_max = (unsigned)spares;
  /* With a pause all are there before each process. */
  options.spares_min = (unsigned)(spares > 1 && !plan.pause_us ? spares / 2 : spares);
  check(mf_new_exec(&options, &p), "mf_new_exec");
  eval(p, "function nothing() end function first(socket) socket:write('x') end "
          "function rest(socket) socket:read(1) end");
  if (heap_mib)
    eval(p, heap_code(heap_mib));
  check(mf_seal(p, MF_SEAL_GENERATIONAL), "mf_seal");
  settle(p, NULL);
  return p;
}

static void close_template(mf_process *p) {
  mf_close(p, NULL, NULL);
  uv_run(&loop, UV_RUN_DEFAULT);
}

/* Spares are made while the loop turns, and a loop on which nothing waits does not turn.
 */
static void on_tick(uv_timer_t *timer) {
}

static void wait_for_spares(void) {
  uv_timer_t tick;
  uv_timer_init(&loop, &tick);
  uv_timer_start(&tick, on_tick, 1, 1);
  while (mf_spares(template) < plan.spares)
    uv_run(&loop, UV_RUN_ONCE);
  uv_close((uv_handle_t *)&tick, NULL);
  uv_run(&loop, UV_RUN_NOWAIT);
}

static void slice(void) {
  double start = now_us(), paused = 0;
  nstarted = nended = 0;
  while (nended < nslice) {
    if (plan.pause_us && nstarted == nended) { /* out of the way of the last one */
      double pause = now_us();
      if (plan.spares)
        wait_for_spares();
      usleep((unsigned)plan.pause_us);
      paused += now_us() - pause;
    }
    while (nstarted - nended < plan.inflight && nstarted < nslice)
      start_life();
    uv_run(&loop, UV_RUN_ONCE);
  }
  slice_done(now_us() - start - paused, us, plan.first ? nslice : 0);
}

/* ---- start by exec ---- */

static void on_entered(mf_process *p, const mf_error *error, int socket, void *data) {
  if (error)
    fail("run", error);
  close(socket);
  *(double *)data = now_us();
}

static void execs(int count) {
  for (int i = -5; i < count; i++) {
    mf_options options = MF_OPTIONS_INIT;
    mf_process *p;
    options.loop = &loop;
    double start = now_us(), entered = 0;
    check(mf_new_exec(&options, &p), "mf_new_exec");
    check(mf_run(p, "type", on_entered, &entered), "mf_run");
    while (entered == 0)
      uv_run(&loop, UV_RUN_ONCE);
    if (i >= 0)
      printf("%.1f\n", entered - start);
    close_template(p);
  }
}

/* ---- many clones, and their memory ---- */

static int nresting;
static void on_rest(mf_process *p, const mf_error *error, int socket, void *data) {
  if (error)
    fail("run", error);
  *(int *)data = socket;
  nresting++;
}

static rlim_t raise_nofile(void) {
  struct rlimit r;
  getrlimit(RLIMIT_NOFILE, &r);
  r.rlim_cur = r.rlim_max;
  setrlimit(RLIMIT_NOFILE, &r);
  return r.rlim_cur;
}

enum { FDS_OF_ONE = 2, OTHER_FDS = 64 }; /* its socket and its pidfd */

static int fitting(int count, rlim_t nofile) {
  rlim_t most = nofile > OTHER_FDS ? (nofile - OTHER_FDS) / FDS_OF_ONE : 0;
  if (most == 0) {
    fprintf(stderr, "%llu descriptors are too few\n", (unsigned long long)nofile);
    exit(1);
  }
  return most < (rlim_t)count ? (int)most : count;
}

static void clones(int count) {
  rlim_t nofile = raise_nofile();
  count = fitting(count, nofile);
  mf_process **p = calloc((size_t)count, sizeof *p);
  int *sockets = calloc((size_t)count, sizeof *sockets);
  mf_memory_info first = {0}, last = {0};
  if (!p || !sockets)
    give_up("calloc");
  template = open_template(0, 0);
  double start = now_us();
  for (int i = 0; i < count; i++) {
    check(mf_fork(template, &p[i]), "mf_fork");
    check(mf_run(p[i], "rest", on_rest, &sockets[i]), "mf_run");
    while (nresting < i - 256)
      uv_run(&loop, UV_RUN_ONCE);
  }
  while (nresting < count)
    uv_run(&loop, UV_RUN_ONCE);
  double started = now_us();
  settle(p[0], &first);
  settle(p[count - 1], &last);
  for (int i = 0; i < count; i++) {
    mf_close(p[i], NULL, NULL);
    close(sockets[i]);
  }
  close_template(template);
  printf("clones %d\nnofile %llu\nseconds %.3f\nprivate_first %llu\nprivate_last %llu\n"
         "end_seconds %.3f\n",
         count, (unsigned long long)nofile, (started - start) / 1e6,
         (unsigned long long)first.uss, (unsigned long long)last.uss,
         (now_us() - started) / 1e6);
  free(p);
  free(sockets);
}

static void memory(int heap_mib, int tables) {
  char code[160];
  mf_memory_info whole = {0}, idle = {0}, worked = {0};
  mf_process *p;
  template = open_template(0, heap_mib);
  settle(template, &whole);
  check(mf_fork(template, &p), "mf_fork");
  settle(p, NULL);
  settle(p, &idle);
  snprintf(code, sizeof code, "for i = 1, %d do local t = {x = i, y = i} end", tables);
  eval(p, code);
  settle(p, &worked);
  printf("template %llu\nidle %llu\nworked %llu\n", (unsigned long long)whole.lua,
         (unsigned long long)idle.uss, (unsigned long long)worked.uss);
  mf_close(p, NULL, NULL);
  close_template(template);
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "";
  check(uv_loop_init(&loop), "uv_loop_init");
  if (strcmp(what, "exec") == 0)
    execs(argument(argc, argv, 2, 100));
  else if (strcmp(what, "clones") == 0)
    clones(argument(argc, argv, 2, 1000));
  else if (strcmp(what, "memory") == 0)
    memory(argument(argc, argv, 2, 84), argument(argc, argv, 3, 2000000));
  else {
    plan = plan_read(argc, argv);
    template = open_template(plan.spares, plan.heap_mib);
    while ((nslice = slice_next()))
      slice();
    close_template(template);
  }
  return 0;
}
