/* Calls of a function in a process that stays. Runs as parent; MOONFORK_TEMPLATE names
 * the template program. Each prints "calls N" and "seconds S".
 *
 *   calls echo COUNT SIZE            a raw socketpair: a forked child writes back what it
 * read, one message at a time; blocking reads and writes calls rpc COUNT INFLIGHT SIZE
 * mf_rpc_call of a Lua function that returns its string calls pool COUNT WORKERS a pool
 * of processor-bound Lua calls
 */
#include "bench.h"

#include <moonfork.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <uv.h>

static mf_rpc *rpc;
static mf_pool *pool;
static char *payload;
static size_t size;
static int count, warmup, asked, answered;
static double began_us, ended_us;

static void check(int code, const char *what) {
  if (code >= 0)
    return;
  fprintf(stderr, "%s: %s\n", what, mf_strerror(code));
  exit(1);
}

static void print_calls(int calls, double us) {
  printf("calls %d\nseconds %.6f\n", calls, us / 1e6);
}

/* ---- the yardstick ---- */

static void move(int fd, int out) {
  for (size_t done = 0; done < size;) {
    ssize_t n = out ? write(fd, payload + done, size - done)
                    : read(fd, payload + done, size - done);
    if (n <= 0)
      _exit(n < 0);
    done += (size_t)n;
  }
}

static void echo(void) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
    give_up("socketpair");
  pid_t pid = fork();
  if (pid < 0)
    give_up("fork");
  if (pid == 0)
    for (close(pair[0]);;) {
      move(pair[1], 0);
      move(pair[1], 1);
    }
  close(pair[1]);
  for (int i = 0; i < warmup + count; i++) {
    if (i == warmup)
      began_us = now_us();
    move(pair[0], 1);
    move(pair[0], 0);
  }
  print_calls(count, now_us() - began_us);
  close(pair[0]);
  waitpid(pid, NULL, 0);
}

/* ---- calls ---- */

static void call(void);

static void on_reply(const mf_error *error, const mf_message *reply, void *data) {
  if (error) {
    fprintf(stderr, "call: %s\n", error->message);
    exit(1);
  }
  if (!pool && reply->length != size)
    exit(1);
  answered++;
  if (answered == warmup)
    began_us = now_us();
  if (answered == warmup + count)
    ended_us = now_us();
  if (asked < warmup + count)
    call();
}

static void call(void) {
  mf_message request = {.data = payload, .length = size};
  asked++;
  check(pool ? mf_pool_call(pool, &request, NULL, on_reply, NULL, NULL)
             : mf_rpc_call(rpc, &request, NULL, on_reply, NULL, NULL),
        "call");
}

static mf_process *make_template(uv_loop_t *loop) {
  static const char code[] =
      "function echo(text) return text end\n"
      "function burn() local s = 0 for i = 1, 100000 do s = s + i % 7 end return '' end";
  mf_options o = MF_OPTIONS_INIT;
  mf_process *p;
  o.loop = loop;
  check(mf_new_exec(&o, &p), "mf_new_exec");
  check(mf_eval(p, code, sizeof code - 1, 0, NULL, NULL), "mf_eval");
  return p;
}

static void run_calls(uv_loop_t *loop, int inflight) {
  for (int i = 0; i < inflight; i++)
    call();
  while (answered < warmup + count)
    uv_run(loop, UV_RUN_ONCE);
  print_calls(count, ended_us - began_us);
  if (rpc)
    mf_rpc_close(rpc, NULL, NULL);
  if (pool)
    mf_pool_close(pool, NULL, NULL);
  uv_run(loop, UV_RUN_DEFAULT);
}

int main(int argc, char **argv) {
  uv_loop_t *loop = uv_default_loop();
  const char *what = argc > 1 ? argv[1] : "";
  int second = argument(argc, argv, 3, 1);
  count = argument(argc, argv, 2, 10000);
  warmup = count / 5 + 1;
  size = (size_t)argument(argc, argv, strcmp(what, "echo") ? 4 : 3, 64);
  payload = calloc(1, size);
  if (!payload)
    give_up("calloc");
  if (!strcmp(what, "echo")) {
    echo();
  } else if (!strcmp(what, "rpc")) {
    check(mf_rpc_new(make_template(loop), "echo", NULL, &rpc), "mf_rpc_new");
    run_calls(loop, second);
  } else if (!strcmp(what, "pool")) {
    mf_pool_options o = MF_POOL_OPTIONS_INIT;
    o.max = o.idle = (unsigned)second;
    check(mf_pool_new(make_template(loop), "burn", &o, &pool), "mf_pool_new");
    run_calls(loop, second * 2);
  } else {
    fprintf(stderr, "usage: %s echo|rpc|pool COUNT ...\n", argv[0]);
    return 2;
  }
  free(payload);
  return 0;
}
