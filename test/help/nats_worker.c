/* A node in C: a pool of libmoonfork's, given to a subject and a stream of jobs by
 * libmoonfork-nats.
 *
 *   nats_worker URL SUBJECT STREAM
 *
 * Says "up" when the engine is reached. A line of its input has it print its mf_dump and
 * what it has done; the end of the input, drain the node and close everything. */
#include <moonfork/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { SECONDS = 30 };

static const char CODE[] = "function f(what, ...)\n"
                           "  while what == 'loop' do end\n"
                           "  return 'did', what, ...\n"
                           "end\n";

static uv_loop_t loop;
static uv_timer_t timer;
static uv_pipe_t input;
static mf_process *template;
static mf_pool *pool;
static mf_node *node;

static void check(int rc, const char *what) {
  if (rc == 0)
    return;
  fprintf(stderr, "%s: %s\n", what, mf_errname(rc));
  exit(1);
}

static void on_pool_closed(mf_pool *closed, void *data) {
  (void)closed, (void)data;
  mf_close(template, NULL, NULL);
}

static void on_node_closed(mf_node *closed, void *data) {
  (void)closed, (void)data;
  puts("closed");
  mf_pool_close(pool, on_pool_closed, NULL);
}

static void on_drained(mf_node *drained, const mf_error *error, void *data) {
  (void)data;
  printf("drained: %s\n", error ? mf_errname(error->code) : "all");
  mf_node_close(drained, on_node_closed, NULL);
}

static void look(void) {
  mf_node_info info = {.size = sizeof info};
  check(mf_node_stats(node, &info), "mf_node_stats");
  mf_dump(&loop, stdout);
  printf("%llu calls, %llu answers, %llu jobs\n", (unsigned long long)info.calls,
         (unsigned long long)info.answers, (unsigned long long)info.jobs_done);
}

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *ret) {
  static char text[256];
  (void)handle, (void)size;
  *ret = uv_buf_init(text, sizeof text);
}

static void on_input(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
  (void)buf;
  if (n >= 0) {
    look();
    return;
  }
  uv_close((uv_handle_t *)stream, NULL);
  check(mf_node_drain(node, SECONDS * 1000, on_drained, NULL), "mf_node_drain");
}

/* Whether the engine is reached nobody calls back. */
static void on_timer(uv_timer_t *t) {
  mf_node_info info = {.size = sizeof info};
  check(mf_node_stats(node, &info), "mf_node_stats");
  if (info.engine != MF_ENGINE_UP)
    return;
  puts("up");
  uv_close((uv_handle_t *)t, NULL);
}

int main(int argc, char **argv) {
  mf_options options = MF_OPTIONS_INIT;
  mf_rpc_options rpc_options = MF_RPC_OPTIONS_INIT;
  mf_pool_options pool_options = MF_POOL_OPTIONS_INIT;
  mf_nats_options nats = MF_NATS_OPTIONS_INIT;
  if (argc < 4)
    return 2;
  setvbuf(stdout, NULL, _IOLBF, 0);
  check(uv_loop_init(&loop), "uv_loop_init");
  options.loop = &loop;
  check(mf_new_exec(&options, &template), "mf_new_exec");
  check(mf_eval(template, CODE, strlen(CODE), 0, NULL, NULL), "mf_eval");
  rpc_options.serialiser = "msgpack"; /* as callers of moonfork.nats have it */
  pool_options.rpc = &rpc_options;
  pool_options.max = 2;
  pool_options.call_timeout_ms = 500;
  check(mf_pool_new(template, "f", &pool_options, &pool), "mf_pool_new");
  nats.loop = &loop;
  nats.url = argv[1];
  nats.subject = argv[2];
  nats.jobs = argv[3];
  check(mf_node_new(pool, &nats, &node), "mf_node_new");
  check(uv_timer_init(&loop, &timer), "uv_timer_init");
  check(uv_timer_start(&timer, on_timer, 10, 10), "uv_timer_start");
  check(uv_pipe_init(&loop, &input, 0), "uv_pipe_init");
  check(uv_pipe_open(&input, 0), "uv_pipe_open");
  check(uv_read_start((uv_stream_t *)&input, on_alloc, on_input), "uv_read_start");
  uv_run(&loop, UV_RUN_DEFAULT);
  return uv_loop_close(&loop) == 0 ? 0 : 3;
}
