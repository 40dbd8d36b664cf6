#include "template/thread/thread_ready.h"

#include "os/sock.h"
#include "template/fork/clone.h"
#include "template/lua/script.h"
#include "template/thread/thread_copy.h"
#include "template/thread/thread_record.h"
#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { COMMAND_MAX = INBOX_ROOM_MIN }; /* the inbox has room for it at once */
enum { STACK_WARM = 16 << 10 };        /* what a short function needs of it */

/* The thread that serves sleeps until the other one has posted it. */
static sem_t over;

/* ---- on the thread that is ready ---- */

static void post(void) {
  sem_post(&over);
}

static void warm_stack(void) {
  volatile char room[STACK_WARM];
  for (size_t i = 0; i < sizeof room; i += 1024)
    room[i] = 0;
}

/* A whole FORK of a clone in a thread is the first that lies there. */
static int is_ours(const unsigned char *bytes, size_t n, struct frame *ret_f) {
  struct options o;
  struct fdset fds;
  if (n < FRAME_HEADER_SIZE || frame_decode(ret_f, bytes, CMD_SETUP, CMD_LAST) < 0 ||
      ret_f->type != CMD_FORK || ret_f->flags || n - FRAME_HEADER_SIZE < ret_f->length)
    return 0;
  ret_f->body = bytes + FRAME_HEADER_SIZE;
  fdset_init(&fds);
  fds.n = ret_f->nfds; /* which are still in the socket */
  struct command c = {.body = ret_f->body, .length = ret_f->length, .fds = &fds};
  return clone_parse_fork(&o, &c) && o.thread && !o.has_step;
}

/* Looks at the next command, and leaves it and its descriptors where they are. */
static int await_ours(int control, unsigned char *bytes, struct frame *ret_f) {
  ssize_t n;
  do
    n = recv(control, bytes, COMMAND_MAX, MSG_PEEK);
  while (n < 0 && errno == EINTR);
  return n > 0 && is_ours(bytes, (size_t)n, ret_f);
}

/* Descriptors were lost: this process has no room for them. The command goes the ordinary
 * way, which says so. */
static void pass_on(struct server *template, const unsigned char *bytes, size_t n) {
  size_t room;
  unsigned char *to = inbox_room(&template->conn.in, &room);
  if (!to || room < n)
    return; /* it was empty, and has so much */
  memcpy(to, bytes, n);
  (void)inbox_fed(&template->conn.in, n, NULL);
  (void)inbox_cut(&template->conn.in);
}

static int take(struct thread *t, int control, const struct frame *f,
                unsigned char *bytes) {
  struct server *template = t->template;
  size_t size = FRAME_HEADER_SIZE + (size_t)f->length;
  struct fdset fds;
  int truncated = 0;
  fdset_init(&fds);
  ssize_t n = sock_recv(control, bytes, size, 0, &fds, &truncated);
  if (n != (ssize_t)size || truncated || fds.n != f->nfds) {
    fdset_close(&fds);
    if (n > 0)
      pass_on(template, bytes, (size_t)n);
    return 0;
  }
  struct command c = {
      .type = CMD_FORK, .id = f->id, .body = f->body, .length = f->length, .fds = &fds};
  thread_take_command(t, &c, bytes);
  t->server.birth.fds.fd[1] = -1;
  if (t->server.birth.options.has_run)
    connection_tell_nothing(&template->conn);
  template->conn.executed++;
  return 1;
}

/* What takes time, and does not depend on the command. */
static void prepare(struct thread *t) {
  warm_stack();
  thread_enter(t);
  t->server.birth.is_seeded = script_reseed(&t->server) == 0;
}

static void *run(void *data) {
  struct thread *t = data;
  int control = t->template->conn.fd, parted = thread_part(t) == 0;
  unsigned char *bytes = parted ? malloc(COMMAND_MAX) : NULL;
  struct frame f;
  if (parted)
    prepare(t);
  if (bytes && await_ours(control, bytes, &f) && take(t, control, &f, bytes)) {
    t->server.release = post;
    if (!t->server.birth.options.has_run)
      server_release(&t->server);
    fd_close(&control);
    thread_live(t);
    return NULL;
  }
  free(bytes);
  thread_enter_over();
  struct server *template = t->template;
  thread_free(t, parted);
  template->lends = NULL;
  template->nthreads--;
  sem_post(&over);
  return NULL;
}

/* ---- on the thread that serves ---- */

static int is_empty(const struct server *s) {
  return inbox_pending(&s->conn.in) == 0 && s->conn.in.fd_head == s->conn.in.fd_tail &&
         s->parts.type == 0;
}

static struct thread *make(struct server *s) {
  static int prepared;
  if (!prepared && sem_init(&over, 0, 0) < 0)
    return NULL;
  prepared = 1;
  return is_empty(s) && !s->collector.dirty && thread_copy_is_small(s)
             ? thread_new(s, s->lends)
             : NULL;
}

int thread_ready_wait(struct server *s) {
  struct thread *t = s->lends ? make(s) : NULL;
  s->lends = t ? s->lends : NULL;
  if (!t)
    return 0;
  thread_count_begin(s);
  if (thread_launch(run, t) != 0) {
    s->lends = NULL;
    s->nthreads--;
    thread_free(t, 0);
    return 0;
  }
  while (sem_wait(&over) < 0 && errno == EINTR)
    ;
  return 1;
}
