/* game_server.c: a small game server, the shape in which many C hosts need scripts: a
 * loop that turns sixty times a second and must never be late, and creatures whose
 * scripts may think for as long as they like. The scripts run in a pool of clones; the
 * loop hands them the state of a creature and takes their answer whenever it comes,
 * frames later.
 *
 *   frame: move everybody -> ask the scripts of those who have no plan -> sleep
 *               ^                             |
 *               +------ on_plan <--- pool <---+
 *
 * Some scripts are bad on purpose: one raises, one loops for ever (its time runs out, its
 * worker is killed and replaced). None of that may be seen in the frames. Runs as parent;
 * the template is the installed or built moonfork-template. */
#include <moonfork.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { FRAME_MS = 16, NFRAMES = 180, NCREATURES = 64, WORLD = 1000 };
static const double LIMIT_MS = FRAME_MS;

static const char SCRIPTS[] =
    "local function steps(here, there) return there > here and 1 or there < here and -1 "
    "or 0 end\n"
    "local kinds = {\n"
    "  hunter = function(x, y) return steps(x, 500), steps(y, 500) end,\n"
    "  dreamer = function() local sum = 0; for i = 1, 2e5 do sum = sum + i % 7 end\n"
    "    return sum % 3 - 1, 1 end,\n"
    "  buggy = function() error('what is a creature?') end,\n"
    "  stuck = function() while true do end end,\n"
    "}\n"
    "function think(request)\n"
    "  local kind, x, y = string.unpack('z i4 i4', request)\n"
    "  return string.pack('i4 i4', kinds[kind](x, y))\n"
    "end\n";

struct creature {
  const char *kind;
  int32_t x, y, dx, dy;
  int thinking, nplans, nerrors;
};

struct game {
  uv_loop_t loop;
  uv_timer_t timer;
  mf_pool *pool;
  struct creature creature[NCREATURES];
  int nframes, nrefused, nlate;
  double longest_ms, longest_gap_ms;
  uint64_t last_frame_ns;
};
static struct game game;

static void check(int code, const char *what) {
  if (code >= 0)
    return;
  fprintf(stderr, "%s: %s\n", what, mf_strerror(code));
  exit(1);
}

/* ---- thinking ---- */

static void on_plan(const mf_error *error, const mf_message *reply, void *data) {
  struct creature *c = data;
  int32_t plan[2];
  c->thinking = 0;
  if (error || reply->length != sizeof plan) {
    c->nerrors++; /* it stays where it is, and asks again */
    return;
  }
  memcpy(plan, reply->data, sizeof plan);
  c->dx = plan[0];
  c->dy = plan[1];
  c->nplans++;
}

static void ask(struct creature *c) {
  char request[64];
  size_t n = strlen(c->kind) + 1;
  memcpy(request, c->kind, n);
  memcpy(request + n, &c->x, sizeof c->x);
  memcpy(request + n + sizeof c->x, &c->y, sizeof c->y);
  mf_message message = {request, n + sizeof c->x + sizeof c->y, NULL, 0};
  /* A full queue is no trouble: there is another frame. */
  if (mf_pool_call(game.pool, &message, NULL, on_plan, c, NULL) < 0)
    game.nrefused++;
  else
    c->thinking = 1;
}

/* ---- the frame ---- */

static int32_t clamp(int32_t at) {
  return at < 0 ? 0 : at > WORLD ? WORLD : at;
}

static void on_pool_closed(mf_pool *pool, void *data) {
  uv_close((uv_handle_t *)&game.timer, NULL);
}

static void stop(void) {
  mf_pool_info stats = {.size = sizeof stats};
  check(mf_pool_stats(game.pool, &stats), "mf_pool_stats");
  printf("%llu calls, %llu answered, %llu errors, %llu workers killed; p50 %llu us, "
         "p99 %llu us\n",
         (unsigned long long)stats.calls, (unsigned long long)stats.done,
         (unsigned long long)stats.failed, (unsigned long long)stats.killed,
         (unsigned long long)stats.p50_us, (unsigned long long)stats.p99_us);
  uv_timer_stop(&game.timer);
  mf_pool_close(game.pool, on_pool_closed, NULL);
}

static void on_frame(uv_timer_t *timer) {
  uint64_t start = uv_hrtime();
  double gap_ms = game.last_frame_ns ? (double)(start - game.last_frame_ns) / 1e6 : 0;
  if (gap_ms > game.longest_gap_ms)
    game.longest_gap_ms = gap_ms;
  if (gap_ms > 2 * FRAME_MS)
    game.nlate++;
  game.last_frame_ns = start;

  for (int i = 0; i < NCREATURES; i++) {
    struct creature *c = &game.creature[i];
    c->x = clamp(c->x + c->dx);
    c->y = clamp(c->y + c->dy);
    if (!c->thinking)
      ask(c);
  }
  if (++game.nframes == NFRAMES)
    stop();

  double ms = (double)(uv_hrtime() - start) / 1e6;
  if (ms > game.longest_ms)
    game.longest_ms = ms;
}

/* ---- the whole ---- */

static void populate(void) {
  for (int i = 0; i < NCREATURES; i++) {
    struct creature *c = &game.creature[i];
    c->kind = i == 0 ? "stuck" : i == 1 ? "buggy" : i % 4 == 0 ? "dreamer" : "hunter";
    c->x = (int32_t)(i * 37 % WORLD);
    c->y = (int32_t)(i * 91 % WORLD);
  }
}

static void start_pool(void) {
  mf_options options = MF_OPTIONS_INIT;
  mf_rpc_options rpc = MF_RPC_OPTIONS_INIT;
  mf_pool_options pool = MF_POOL_OPTIONS_INIT;
  mf_process *template;
  options.loop = &game.loop;
  options.name = "scripts";
  check(mf_new_exec(&options, &template), "mf_new_exec");
  check(mf_eval(template, SCRIPTS, strlen(SCRIPTS), 0, NULL, NULL), "mf_eval");
  rpc.timeout_ms = 2000; /* a plan that is two seconds old is none */
  pool.rpc = &rpc;
  pool.max = 3;
  pool.idle = 2;
  pool.queue_max = NCREATURES;
  pool.call_timeout_ms = 200; /* nobody thinks longer */
  check(mf_pool_new(template, "think", &pool, &game.pool), "mf_pool_new");
}

int main(void) {
  check(uv_loop_init(&game.loop), "uv_loop_init");
  check(uv_timer_init(&game.loop, &game.timer), "uv_timer_init");
  populate();
  start_pool();
  check(uv_timer_start(&game.timer, on_frame, 0, FRAME_MS), "uv_timer_start");
  uv_run(&game.loop, UV_RUN_DEFAULT);

  int nplans = 0, nstuck = game.creature[0].nerrors, nbuggy = game.creature[1].nerrors;
  for (int i = 2; i < NCREATURES; i++)
    nplans += game.creature[i].nplans;
  printf("%d frames, longest %.3f ms (limit %.0f), longest gap %.1f ms, %d late\n",
         game.nframes, game.longest_ms, LIMIT_MS, game.longest_gap_ms, game.nlate);
  printf(
      "%d plans; the stuck script was stopped %d times, the buggy one raised %d times\n",
      nplans, nstuck, nbuggy);
  int left = uv_loop_close(&game.loop);
  return game.longest_ms < LIMIT_MS && nplans > 0 && nstuck > 0 && nbuggy > 0 && !left
             ? 0
             : 1;
}
