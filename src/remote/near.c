/* The near end: started by the parent like a template, it starts the command and carries
 * the parent's sockets over the command's standard input and output. It lives as long as
 * a channel is open or a process lives over there, and ends its command when it ends. */
#include "remote/ends.h"

#include "base/result.h"
#include "os/fd.h"
#include "os/proc.h"
#include "os/share.h"
#include "os/sock.h"
#include "remote/beat.h"
#include "remote/command.h"
#include "remote/mux.h"
#include "remote/records.h"
#include "wire/build.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
  SIDE_FD = 3,
  LEASH_FD = 4,
  SIDE_MAX = 16 * 1024 * 1024, /* reports that the parent does not read */
  LAST_WAIT_MS = 1000,         /* for a parent to read what it was told last */
  STATUS_WAIT_MS = 500         /* for what the command says and how it ends */
};

static struct turn turn;
static struct mux mux;
static struct beat beat;
static struct records records;
static struct link_command command;
static struct turn_watch side, leash;
static uv_timer_t status_wait;
static uv_signal_t interrupt;
static struct buf side_in, side_out;
static int side_is_open = 1, side_writes, is_leaving, has_left, has_template;
static uint32_t beat_ms, window;
static size_t nalive, nprinted;
static uint64_t nread; /* bytes of the side, but START */
static struct stat leash_stat;
static char reason[LINK_TEXT_MAX];
static struct link_page *page; /* NULL: the parent has none */
/* Sockets that go to the parent on its side, each with the frame that begins there. */
static struct {
  uint64_t at;
  int fd;
} pending[LINK_FORKS_MAX];
static size_t npending;
static uint64_t nwritten; /* bytes on the side */

/* ---- towards the parent ---- */

static void watch_side(void) {
  if (side_is_open)
    turn_watch(&turn, &side, SIDE_FD, TURN_READ | (side_writes ? TURN_WRITE : 0));
}

/* Up to the next socket that goes with a frame, or that frame with it. */
static ssize_t send_side(void) {
  size_t n = buf_size(&side_out);
  int is_due = npending > 0 && pending[0].at == nwritten;
  if (npending > (size_t)is_due && pending[is_due].at - nwritten < n)
    n = (size_t)(pending[is_due].at - nwritten);
  struct iovec iov = {(void *)(uintptr_t)buf_peek(&side_out), n};
  ssize_t sent = sock_send(SIDE_FD, &iov, 1, is_due ? &pending[0].fd : NULL, is_due);
  if (sent > 0 && is_due) {
    fd_close(&pending[0].fd);
    memmove(pending, pending + 1, --npending * sizeof *pending);
  }
  return sent;
}

static void flush_side(void) {
  if (page)
    page->ntold = nwritten + buf_size(&side_out);
  while (side_is_open && buf_size(&side_out) > 0) {
    ssize_t n = send_side();
    if (n <= 0)
      break;
    buf_consume(&side_out, (size_t)n);
    nwritten += (uint64_t)n;
  }
  int writes = buf_size(&side_out) > 0;
  if (writes != side_writes) {
    side_writes = writes;
    watch_side();
  }
}

static int pass_on(const struct link_frame *f) {
  return link_put_bytes(&side_out, f->type, f->body, f->length);
}

/* What follows on a socket was told of before; the rest goes at the end of the turn. */
static void before_local(struct mux *m) {
  if (buf_size(&side_out) > 0 && !side_writes)
    flush_side();
}

static void print(const char *text, size_t n) {
  if (nprinted + n > LINK_TEXT_MAX)
    n = LINK_TEXT_MAX - nprinted;
  nprinted += n;
  if (n && link_put_bytes(&side_out, LINK_PRINTED, text, n) == 0)
    flush_side();
}

/* ---- the end ---- */

/* What the parent has not read yet, a parent that reads gets: how its processes ended,
 * and why the link does. */
static void flush_last(void) {
  uint64_t last = uv_hrtime() + LAST_WAIT_MS * 1000000ull, now;
  while (buf_size(&side_out) > 0 && (now = uv_hrtime()) < last) {
    struct pollfd p = {SIDE_FD, POLLOUT, 0};
    if (poll(&p, 1, (int)((last - now) / 1000000) + 1) < 0 && errno != EINTR)
      return;
    if (p.revents & (POLLERR | POLLHUP))
      return;
    flush_side();
  }
}

static void leave(int gently) {
  if (has_left)
    return;
  has_left = 1;
  if (*reason)
    link_put_text(&side_out, LINK_FAILED, reason, strlen(reason));
  flush_side();
  if (side_is_open && buf_size(&side_out) > 0) {
    mux_shut(&mux); /* a parent that does not listen to its side hears that */
    flush_last();
  }
  side_is_open = 0;
  turn_watch(&turn, &side, -1, 0);
  turn_watch(&turn, &leash, -1, 0);
  /* Before the agent sees the end of its input: what waits for it starts nothing yet. */
  command_end(&command, gently);
  close(SIDE_FD);
  mux_shut(&mux); /* all of the parent's sockets end now */
}

/* What is not told by then the parent learns from the end of its side. */
static void on_status(uv_timer_t *t) {
  command_describe(&command, reason, sizeof reason);
  leave(0);
}

static void on_command(struct link_command *c) {
  if (is_leaving == 2 && command_is_over(c)) {
    uv_timer_stop(&status_wait);
    on_status(&status_wait);
  }
}

static void on_end(struct mux *m, const char *why) {
  if (is_leaving)
    return;
  if (why) {
    if (why != reason)
      snprintf(reason, sizeof reason, "%s", why);
    leave(0);
    return;
  }
  is_leaving = 2;
  uv_timer_start(&status_wait, on_status, STATUS_WAIT_MS, 0);
  on_command(&command);
}

/* Without a process over there and a channel but the output's, none can be born there
 * either. The parent's side may be open still: it holds it as long as it has a record of
 * a process that has ended. */
static int is_needed(void) {
  if (!mux.greeted)
    return side_is_open;
  if (nalive || mux.nchannels > (unsigned)mux_has(&mux, LINK_CHANNEL_OUTPUT))
    return 1;
  return side_is_open && (!has_template || buf_size(&side_out) > 0);
}

/* The command sees the end of its input, and goes. */
static void look_idle(void) {
  if (is_leaving || is_needed())
    return;
  mux_claim(&mux); /* no more FORKs of the program's */
  mux_import(&mux);
  if (is_needed())
    return;
  is_leaving = 1;
  if (mux.greeted) /* the program may have its input, too, and not look */
    link_put_text(&mux.out, LINK_FAILED, "", 0);
  mux_flush(&mux);
  leave(mux.greeted); /* what has not greeted may wait for anything */
}

static void on_leash(struct turn_watch *w, int events) {
  *reason = 0;
  leave(0);
}

/* Ctrl-C reaches all in the foreground of a terminal, but not the processes over there:
 * the link stays. One that is not there yet is given up. */
static void on_interrupt(uv_signal_t *s, int signum) {
  if (!mux.greeted)
    mux_break(&mux, "it was interrupted (SIGINT)");
}

/* ---- from the parent ---- */

static int take_fork(const struct link_frame *f) {
  struct link_fork fork;
  int r = link_read_fork(f, &fork);
  return r < 0 ? r : mux_fork(&mux, &fork);
}

static int take_unwanted(const struct link_frame *f) {
  uint32_t token;
  int r = link_numbers(f, &token, 1);
  if (r == 0)
    mux_forget_fork(&mux, token);
  return r;
}

static int take_direct(const struct link_frame *f) {
  uint32_t v[4];
  int r = link_numbers(f, v, 4);
  if (r < 0 || v[0] >= LINK_DIRECT_MAX || !page)
    return -EPROTO;
  mux_direct(&mux, v[0], v[1], (uint64_t)v[3] << 32 | v[2]);
  return 0;
}

static int take_side(const struct link_frame *f) {
  switch (f->type) {
  case LINK_KILL:
  case LINK_TREE:
  case LINK_DROP:
  case LINK_MEASURE:
    return link_put_bytes(&mux.out, f->type, f->body, f->length);
  case LINK_FORK:
    return take_fork(f);
  case LINK_UNWANTED:
    return take_unwanted(f);
  case LINK_DIRECT:
    return take_direct(f);
  default:
    return -EPROTO;
  }
}

static void close_side(void) {
  turn_watch(&turn, &side, -1, 0);
  side_is_open = 0;
  look_idle();
}

/* Kept until the agent has greeted. */
static void take_sides(void) {
  struct link_frame f;
  mux_import(&mux);
  int r = MF_AGAIN;
  while (mux.greeted && (r = link_next(&side_in, LINK_SIDE_LAST, &f)) == 0) {
    r = take_side(&f);
    if (r < 0)
      break;
    link_done(&side_in, &f);
  }
  if (r < 0)
    mux_break(&mux, "the parent does not keep to the protocol");
}

static void read_side(void) {
  while (side_is_open) {
    unsigned char *at = buf_reserve(&side_in, 4096);
    ssize_t n = at ? sock_read(SIDE_FD, at, 4096) : -ENOMEM;
    if (n == -EAGAIN)
      break;
    if (n <= 0) {
      close_side();
      return;
    }
    nread += (uint64_t)n;
    buf_commit(&side_in, (size_t)n);
    take_sides();
    if (page && page->nsaid == nread)
      break; /* as memory says; its end is heard of by itself */
  }
}

static void on_side(struct turn_watch *w, int events) {
  if (events & TURN_WRITE)
    flush_side();
  read_side();
}

/* ---- from the agent ---- */

/* How many of the last bytes may be the beginning of a marker. */
static size_t begun(const unsigned char *p, size_t n) {
  size_t k = n < LINK_MARKER_SIZE ? n : LINK_MARKER_SIZE - 1;
  while (k && memcmp(p + n - k, LINK_MARKER, k) != 0)
    k--;
  return k;
}

/* What the command printed stands before the marker, which may come in pieces. */
static int on_raw(struct mux *m) {
  const unsigned char *p = buf_peek(&m->in);
  size_t n = buf_size(&m->in);
  if (command.greeted)
    return 0;
  const unsigned char *at = memmem(p, n, LINK_MARKER, LINK_MARKER_SIZE);
  size_t before = at ? (size_t)(at - p) : n - begun(p, n);
  print((const char *)p, before);
  buf_consume(&m->in, before);
  if (!at)
    return 1;
  buf_consume(&m->in, LINK_MARKER_SIZE);
  command.greeted = 1;
  return 0;
}

/* For the parent's text about what it does (mf_dump). */
static void write_page(int all) {
  if (!page)
    return;
  page->heard_ms = mux.heard_ms;
  page->backlog = mux_backlog(&mux);
  page->nchannels = mux.nchannels;
  page->root_limit = mux.root_limit;
  page->nroot = mux.nroot;
  if (!all)
    return;
  page->beat_ms = beat_ms;
  page->window = window;
  page->written_ms = mux_now_ms(&mux);
  mux_list(&mux, page);
}

static void on_beat(struct beat *b) {
  mux_import(&mux);
  write_page(1);
  if (records_put_stops(&records, &mux.out) < 0)
    mux_break(&mux, "not enough memory");
}

/* The program may write its FORKs to the command by itself, if that is a pipe. */
static void give_input(void) {
  if (!page || !mux.to.is_pipe || mux.to.careful || npending > 0)
    return;
  int fd = fd_dup(mux.to.fd);
  if (fd < 0 || link_put(&side_out, LINK_INPUT, 0, NULL, 0) < 0) {
    fd_close(&fd);
    return;
  }
  pending[npending].at = nwritten + buf_size(&side_out) - LINK_HEADER_SIZE;
  pending[npending++].fd = fd;
  mux_share(&mux, page);
}

static int greet(const struct link_frame *f) {
  struct link_hello h;
  if (mux.greeted || link_read_hello(f, 1, &h) < 0)
    return -EPROTO;
  if (h.version != LINK_VERSION || strcmp(h.build, build_own.version) != 0) {
    snprintf(reason, sizeof reason,
             "moonfork there is version %s (link protocol %u), here it is %s (link "
             "protocol %d): install the same version on both sides",
             h.build, h.version, build_own.version, LINK_VERSION);
    mux_break(&mux, reason);
    return 0;
  }
  int r = pass_on(f);
  flush_side(); /* before anything goes there: who has not read it knows that nothing has */
  if (!r)
    r = link_put_hello(&mux.out, beat_ms, window);
  if (!r)
    r = mux_add(&mux, LINK_CHANNEL_OUTPUT, fd_dup(1), MUX_TO_LOCAL);
  if (r < 0)
    return r;
  mux_begin(&mux, window);
  beat_start(&beat, &mux, beat_ms, on_beat); /* not before: a login takes its time */
  command_accept(&command);
  give_input();
  take_sides();
  write_page(1);
  return 0;
}

static int take_birth(const struct link_frame *f) {
  struct link_birth b;
  if (link_read_birth(f, &b) < 0)
    return -EPROTO;
  nalive++;
  has_template = 1; /* it is the first that is born */
  return pass_on(f);
}

static int take_gone(const struct link_frame *f) {
  struct link_end e;
  if (link_read_end(f, &e) < 0 || nalive == 0)
    return -EPROTO;
  nalive--;
  return pass_on(f);
}

static int take_failed(const struct link_frame *f) {
  static const struct link_end root = {.serial = LINK_SERIAL_ROOT,
                                       .status = LINK_STATUS_UNKNOWN};
  int rc = link_read_text(f, reason, sizeof reason);
  if (rc < 0)
    return rc;
  if (!has_template) /* nor will there be one: nothing that was sent is entered */
    link_put_end(&side_out, &root);
  mux_break(&mux, reason);
  return 0;
}

static int on_frame(struct mux *m, const struct link_frame *f) {
  switch (f->type) {
  case LINK_HELLO:
    return greet(f);
  case LINK_BORN:
    return take_birth(f);
  case LINK_GONE:
    return take_gone(f);
  case LINK_RETURNED:
    return f->length == 12 ? pass_on(f) : -EPROTO;
  case LINK_MEASURED:
    return f->length == 40 ? pass_on(f) : -EPROTO;
  case LINK_MEMORY:
    return records_take(&records, f);
  case LINK_FAILED:
    return take_failed(f);
  default:
    return -EPROTO;
  }
}

/* ---- descriptors that the parent sends ---- */

/* What the parent has said before them stands on its side: that a tree is born there. */
static void before_descriptors(struct mux *m) {
  if (!page || page->nsaid != nread)
    read_side();
}

/* The leash's read end becomes the agent's leash, a ticket the memory of a step. */
static int classify(struct mux *m, int fd, struct link_descriptor *d) {
  struct stat st;
  struct link_ticket t;
  if (fstat(fd, &st) < 0)
    return 0;
  if (st.st_dev == leash_stat.st_dev && st.st_ino == leash_stat.st_ino) {
    d->kind = LINK_LEASH;
    return 1;
  }
  if (records_classify(&records, fd, &st, d, &m->out))
    return 1;
  if (!S_ISREG(st.st_mode) || !share_is_memory(fd, sizeof t) ||
      pread(fd, &t, sizeof t, 0) != (ssize_t)sizeof t || t.magic != LINK_TICKET_MAGIC)
    return 0;
  *d = (struct link_descriptor){.kind = t.kind, .id = t.table, .count = t.count};
  return 1;
}

/* ---- forks without a socket ---- */

static int make_socket(struct mux *m, uint32_t token, uint64_t *ret_cookie) {
  int pair[2], has_room = side_is_open && npending < LINK_FORKS_MAX;
  int r = has_room ? sock_pair(pair, 0) : -ENOBUFS;
  if (r < 0)
    return r; /* on_unmade_end follows */
  *ret_cookie = page ? sock_cookie(pair[0]) : 0;
  pending[npending].at = nwritten + buf_size(&side_out);
  pending[npending++].fd = pair[0];
  if (page)
    page->nsockets++;
  atomic_thread_fence(memory_order_release); /* before ntold */
  if (link_put(&side_out, LINK_SOCKET, 0, &token, 1) < 0)
    mux_break(m, "not enough memory");
  before_local(m);
  return pair[1];
}

static void on_unmade_end(struct mux *m, uint32_t token) {
  if (link_put(&side_out, LINK_ENDED, 0, &token, 1) < 0)
    mux_break(m, "not enough memory");
}

/* Those that were asked for before what lies there. */
static void before_root(struct mux *m) {
  if (!page || page->nsaid != nread)
    read_side();
}

static const struct mux_ops ops = {.on_raw = on_raw,
                                   .make_socket = make_socket,
                                   .on_unmade_end = on_unmade_end,
                                   .before_root = before_root,
                                   .on_frame = on_frame,
                                   .on_end = on_end,
                                   .before_descriptors = before_descriptors,
                                   .classify = classify,
                                   .before_local = before_local};

/* ---- made ---- */

/* The parent's first frame, with the root's socket and perhaps the page: it has come
 * before this program was started. */
static int take_start(struct link_hello *ret, int *ret_root, int *ret_page) {
  struct fdset fds;
  struct link_frame f;
  int truncated, r = MF_AGAIN;
  *ret_root = *ret_page = -1;
  while (r == MF_AGAIN) {
    fdset_init(&fds);
    unsigned char *at = buf_reserve(&side_in, 4096);
    ssize_t n = at ? sock_recv(SIDE_FD, at, 4096, 0, &fds, &truncated) : -ENOMEM;
    if (fds.n > 1 && *ret_page < 0)
      *ret_page = fdset_steal(&fds, 1);
    if (fds.n >= 1 && *ret_root < 0)
      *ret_root = fdset_steal(&fds, 0);
    fdset_close(&fds);
    if (n <= 0)
      return n ? (int)n : -EPROTO;
    buf_commit(&side_in, (size_t)n);
    r = link_next(&side_in, LINK_SIDE_LAST, &f);
  }
  if (r < 0 || *ret_root < 0 || f.type != LINK_START)
    return -EPROTO;
  link_read_start(&f, ret);
  link_done(&side_in, &f);
  nread = buf_size(&side_in);
  return 0;
}

/* Of a program of another build neither words nor memory mean what they do here. */
static int begin(const struct link_hello *start, int page_fd) {
  void *map = NULL;
  if (strcmp(start->build, build_own.version) != 0) {
    snprintf(reason, sizeof reason,
             "the program that started it is moonfork %s, moonfork-remote is %s: install "
             "the same version of both (MOONFORK_REMOTE names another one)",
             *start->build ? start->build : "of another version", build_own.version);
    return -EPROTO;
  }
  int r = page_fd < 0 ? 0 : share_map(page_fd, sizeof *page, &map);
  if (r == -EINVAL)
    snprintf(reason, sizeof reason,
             "the program that started it shares memory with it that is not as this "
             "moonfork-remote expects it: install both from one build of moonfork %s "
             "(MOONFORK_REMOTE names another one)",
             build_own.version);
  else if (r < 0)
    snprintf(reason, sizeof reason, "the program's memory can't be shared: %s",
             strerror(-r));
  page = map;
  beat_ms = start->beat_ms;
  window = start->window;
  return r;
}

/* All that the program has said stands in its place before the program writes itself. */
static void release_input(void) {
  if (page && mux_backlog(&mux) == 0 && atomic_load(&page->npassed) != (uint32_t)nread)
    atomic_store(&page->npassed, (uint32_t)nread);
  mux_release(&mux);
}

static void after(struct turn *t) {
  mux_after(&mux);
  before_local(&mux);
  write_page(0);
  release_input();
  if (buf_size(&side_out) > SIDE_MAX)
    mux_break(&mux, "the far side reports more than the parent reads");
  look_idle();
}

static int fail_start(void) {
  link_put_text(&side_out, LINK_FAILED, reason, strlen(reason));
  flush_side();
  return 1;
}

int remote_near(char **argv) {
  int root, page_fd, r;
  struct link_hello start;
  /* What the program has without close-on-exec, as files of io.open, does not go
   * to the command: the reader of such a pipe would wait for the end of the link. */
  fd_close_from(LEASH_FD + 1, NULL, 0);
  uv_loop_t *loop = uv_default_loop();
  signal(SIGPIPE, SIG_IGN);
  records_init(&records);
  buf_init(&side_in, SIDE_MAX);
  buf_init(&side_out, 2 * SIDE_MAX);
  if (fstat(LEASH_FD, &leash_stat) < 0 || take_start(&start, &root, &page_fd) < 0) {
    fprintf(stderr, "moonfork-remote: it is started by moonfork, not by hand\n");
    return 2;
  }
  fd_set_cloexec(SIDE_FD, 1);
  fd_set_cloexec(LEASH_FD, 1);
  r = begin(&start, page_fd);
  fd_close(&page_fd);
  if (r < 0)
    return fail_start();
  uv_timer_init(loop, &status_wait);
  side.on_ready = on_side;
  leash.on_ready = on_leash;
  r = turn_init(&turn, loop, after);
  if (!r)
    r = turn_watch(&turn, &leash, LEASH_FD, TURN_READ);
  if (!r)
    watch_side();
  if (!r)
    r = mux_init(&mux, &turn, &ops, NULL, 0);
  if (!r)
    r = mux_add(&mux, LINK_CHANNEL_ROOT, root, MUX_BOTH);
  if (!r)
    r = command_start(&command, &turn, argv, print, on_command);
  if (!r) {
    uv_signal_init(loop, &interrupt);
    uv_signal_start(&interrupt, on_interrupt, SIGINT);
    mux_raise_limit(&mux);
    if (page)
      page->takes_forks = mux.nspare > 2 * LINK_FORKS_MAX;
    r = mux_open(&mux, command.output, command.input);
  }
  if (r < 0) {
    snprintf(reason, sizeof reason, "%s can't be started: %s", argv[0], strerror(-r));
    return fail_start();
  }
  mux_dump_on_signal(&mux);
  turn_run(&turn);
  return 0;
}
