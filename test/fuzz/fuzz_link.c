/* libFuzzer: arbitrary bytes as one end of a link says them, in pieces, to the other: the
 * readers of all frames, and the channels behind them. The first byte says which end
 * reads (bit 0) and how large the pieces are. What must hold: no crash, nothing is read
 * past a frame, no more channels and bytes are kept than there may be. */
#undef NDEBUG /* its asserts are the test */
#include "base/result.h"
#include "os/sock.h"
#include "remote/mux.h"
#include <assert.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CHANNELS_MAX = 64 }; /* descriptors of one run */

static int over;

static int on_frame(struct mux *m, const struct link_frame *f) {
  struct link_hello hello;
  struct link_birth birth;
  struct link_end end;
  uint32_t numbers[3];
  uint64_t id;
  switch (f->type) {
  case LINK_HELLO:
    return link_read_hello(f, !m->is_agent, &hello);
  case LINK_BORN:
    return link_read_birth(f, &birth);
  case LINK_GONE:
    return link_read_end(f, &end);
  case LINK_RETURNED:
    return link_read_returned(f, numbers, &id);
  case LINK_KILL:
    return link_numbers(f, numbers, 3);
  default:
    return 0;
  }
}

static void on_end(struct mux *m, const char *why) {
  over = 1;
}

static void on_quiet(struct mux *m) {
}

/* What it decides the bytes say. */
static int take_fork(struct mux *m, uint32_t channel, const struct link_fork *fork,
                     unsigned char *command) {
  assert(fork->n >= 16 && fork->n <= LINK_FORK_MAX);
  assert(memcmp(command, fork->command, fork->n) == 0);
  if (command[0] & 2)
    mux_end_unmade(m, channel - 2);
  return command[0] & 1;
}

static const struct mux_ops ops = {
    .on_frame = on_frame, .on_end = on_end, .on_quiet = on_quiet, .take_fork = take_fork};

static void after(struct turn *t) {
}

static void on_walk(uv_handle_t *h, void *arg) {
  if (!uv_is_closing(h))
    uv_close(h, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static struct mux mux;
  uv_loop_t loop;
  struct turn turn;
  struct buf in;
  int local[2];
  if (size == 0)
    return 0;
  unsigned how = data[0];
  size_t piece = (how >> 1) + 1u;
  over = 0;
  signal(SIGPIPE, SIG_IGN); /* as both ends do */
  assert(uv_loop_init(&loop) == 0);
  assert(turn_init(&turn, &loop, after) == 0);
  assert(mux_init(&mux, &turn, &ops, NULL, how & 1) == 0);
  assert(sock_pair(local, 0) == 0);
  assert(mux_add(&mux, LINK_CHANNEL_ROOT, local[1], MUX_BOTH) == 0);
  mux_begin(&mux, LINK_WINDOW_MIN);
  buf_init(&in, SIZE_MAX);
  for (size_t at = 1; at < size && !over; at += piece) {
    struct link_frame f;
    int r = MF_AGAIN;
    assert(buf_put(&in, data + at, size - at < piece ? size - at : piece) == 0);
    while (!over && mux.nchannels < CHANNELS_MAX &&
           (r = link_next(&in, LINK_LAST, &f)) == 0) {
      assert(LINK_HEADER_SIZE + (size_t)f.length <= buf_size(&in));
      over |= mux_take_frame(&mux, &f) < 0;
      link_done(&in, &f);
    }
    over |= r < 0 || mux.nchannels >= CHANNELS_MAX;
  }
  buf_deinit(&in);
  mux_shut(&mux);
  turn_deinit(&turn);
  uv_walk(&loop, on_walk, NULL);
  uv_run(&loop, UV_RUN_DEFAULT);
  assert(uv_loop_close(&loop) == 0);
  mux_deinit(&mux);
  close(local[0]);
  return 0;
}
