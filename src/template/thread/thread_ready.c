#include "template/thread/thread_ready.h"

#include "os/fdwait.h"
#include "os/sock.h"
#include "template/fork/clone.h"
#include "template/lua/script.h"
#include "template/thread/thread_copy.h"
#include "template/thread/thread_record.h"
#include <errno.h>
#include <moonfork.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
  READY_MAX = 4,
  IDLE_S = 1,                   /* without a clone: one is enough again */
  COMMAND_MAX = INBOX_ROOM_MIN, /* the inbox has room for it at once */
  STACK_WARM = 16 << 10         /* what a short function needs of it */
};

/* Those that are ready: one reads commands, the others wait for their turn, which it gives
 * to the next when it has become a clone. */
static struct {
  pthread_mutex_t lock;
  sem_t news; /* posted with each change that the thread that serves sleeps for */
  struct thread *waiting[READY_MAX];
  int nwaiting;
  int reads; /* one does */
  int over;  /* it has found something else, or news for the template to tell */
  int n;     /* all of them, those that are told to end included */
  int wanted;
  size_t nrest; /* of a command that was read and can't be taken */
  unsigned char rest[COMMAND_MAX];
} ready = {.lock = PTHREAD_MUTEX_INITIALIZER, .wanted = 1};

/* ---- turns; the lock is held ---- */

static void give_turn(void) {
  struct thread *t = ready.waiting[0];
  memmove(ready.waiting, ready.waiting + 1,
          (size_t)--ready.nwaiting * sizeof *ready.waiting);
  sem_post(&t->turn);
}

static void dismiss_waiting(void) {
  while (ready.nwaiting > 0) {
    ready.waiting[0]->dismissed = 1;
    give_turn();
  }
}

/* ---- on the thread that is ready ---- */

/* The clone's function has written, or what it does next may take time. The thread that
 * serves is woken when the last one is reading: it makes several then. */
static void release(void) {
  pthread_mutex_lock(&ready.lock);
  ready.reads = ready.nwaiting > 0;
  if (ready.reads)
    give_turn();
  int is_last = ready.nwaiting == 0;
  pthread_mutex_unlock(&ready.lock);
  if (is_last)
    sem_post(&ready.news);
}

static void await_turn(struct thread *t) {
  while (sem_wait(&t->turn) < 0 && errno == EINTR)
    ;
  pthread_mutex_lock(&ready.lock); /* whoever has posted it is done with it */
  pthread_mutex_unlock(&ready.lock);
  sem_destroy(&t->turn);
}

/* over: the thread that serves is to go on. */
static void leave_ready(int over) {
  pthread_mutex_lock(&ready.lock);
  ready.n--;
  if (over) {
    ready.reads = 0;
    ready.over = 1;
  }
  pthread_mutex_unlock(&ready.lock);
}

static void warm_stack(void) {
  volatile char room[STACK_WARM];
  for (size_t i = 0; i < sizeof room; i += 1024)
    room[i] = 0;
}

/* A whole FORK of a clone in a thread is the first that lies there. */
static int is_ours(const struct thread *t, const unsigned char *bytes, size_t n,
                   struct frame *ret_f) {
  struct options o;
  struct fdset fds;
  if (n < FRAME_HEADER_SIZE || frame_decode(ret_f, bytes, CMD_SETUP, CMD_LAST) < 0 ||
      ret_f->type != CMD_FORK || ret_f->flags || n - FRAME_HEADER_SIZE < ret_f->length)
    return 0;
  ret_f->body = bytes + FRAME_HEADER_SIZE;
  fdset_init(&fds);
  fds.n = ret_f->nfds; /* which are still in the socket */
  struct command c = {.body = ret_f->body, .length = ret_f->length, .fds = &fds};
  return clone_parse_fork(&o, &c) && o.thread && !o.has_step &&
         thread_copy_suits(&t->server, o.lazy);
}

/* Looks at the next command, and leaves it and its descriptors where they are. */
static int await_ours(const struct thread *t, int control, unsigned char *bytes,
                      struct frame *ret_f) {
  ssize_t n;
  do
    n = recv(control, bytes, COMMAND_MAX, MSG_PEEK);
  while (n < 0 && errno == EINTR);
  return n > 0 && is_ours(t, bytes, (size_t)n, ret_f);
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
    ready.nrest = n > 0 ? (size_t)n : 0;
    memcpy(ready.rest, bytes, ready.nrest);
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

/* Frees it. */
static void end(struct thread *t, int parted) {
  struct server *template = t->template;
  int dismissed = t->dismissed;
  thread_enter_over();
  thread_free(t, parted);
  thread_count_end(template);
  leave_ready(!dismissed);
  sem_post(&ready.news);
}

static void *run(void *data) {
  struct thread *t = data;
  int control = t->template->conn.fd, parted = thread_part(t) == 0;
  unsigned char *bytes = parted ? malloc(COMMAND_MAX) : NULL;
  struct frame f;
  if (parted)
    prepare(t);
  await_turn(t);
  if (t->dismissed || !bytes || !await_ours(t, control, bytes, &f) ||
      !take(t, control, &f, bytes)) {
    free(bytes);
    end(t, parted);
    return NULL;
  }
  int is_told = t->server.birth.options.has_run; /* by itself */
  leave_ready(!is_told);
  if (is_told)
    t->server.release = release;
  else
    sem_post(&ready.news);
  fd_close(&control);
  thread_live(t);
  return NULL;
}

/* ---- on the thread that serves ---- */

static int is_empty(const struct server *s) {
  return inbox_pending(&s->conn.in) == 0 && s->conn.in.fd_head == s->conn.in.fd_tail &&
         s->parts.type == 0;
}

static struct thread *new_thread(struct server *s) {
  int ahead = !s->collector.dirty && thread_copy_ahead(s, s->lends_lazy);
  struct thread *t =
      ahead ? thread_new(s, s->lends, s->lends_lazy ? MF_LAZY_TRY : MF_LAZY_NO) : NULL;
  if (!t || sem_init(&t->turn, 0, 0) == 0)
    return t;
  thread_free(t, 0);
  return NULL;
}

/* One more. 1, or 0: there can be none. */
static int make(struct server *s) {
  struct thread *t = new_thread(s);
  if (!t)
    return 0;
  thread_count_begin(s);
  int error = thread_launch(run, t);
  if (!error) {
    pthread_mutex_lock(&ready.lock);
    ready.n++;
    ready.waiting[ready.nwaiting++] = t;
    pthread_mutex_unlock(&ready.lock);
    return 1;
  }
  thread_count_end(s);
  sem_destroy(&t->turn);
  thread_free(t, 0);
  return 0;
}

/* The lock is free meanwhile. Where several are ready, that ends when nothing has happened
 * for long. */
static void sleep_for_news(void) {
  struct timespec end;
  int r;
  pthread_mutex_unlock(&ready.lock);
  clock_gettime(CLOCK_REALTIME, &end); /* whoever sets it moves that moment, no more */
  end.tv_sec += IDLE_S;
  r = ready.wanted > 1 ? sem_timedwait(&ready.news, &end) : sem_wait(&ready.news);
  int idle = r < 0 && errno == ETIMEDOUT;
  pthread_mutex_lock(&ready.lock);
  if (!idle)
    return;
  ready.wanted = 1;
  dismiss_waiting();
}

static int make_unlocked(struct server *s) {
  pthread_mutex_unlock(&ready.lock);
  int made = make(s);
  pthread_mutex_lock(&ready.lock);
  return made;
}

static int is_command_waiting(const struct server *s) {
  struct pollfd p = {.fd = s->conn.fd, .events = POLLIN};
  return fdwait(&p, 1, 0) > 0;
}

/* One step; 0: none is ready, and none can be. The lock is held. */
static int look_after(struct server *s) {
  if (!ready.reads && ready.nwaiting > 0) {
    ready.reads = 1;
    give_turn();
    return 1;
  }
  int n = ready.reads + ready.nwaiting;
  if (n == 0 && ready.wanted < READY_MAX && is_command_waiting(s))
    ready.wanted++;
  if (n >= ready.wanted) {
    sleep_for_news();
    return 1;
  }
  if (make_unlocked(s))
    return 1;
  n = ready.reads + ready.nwaiting;
  ready.wanted = n ? n : 1;
  return n;
}

static void end_all(void) {
  pthread_mutex_lock(&ready.lock);
  dismiss_waiting();
  while (ready.n > 0) {
    pthread_mutex_unlock(&ready.lock);
    (void)sem_wait(&ready.news);
    pthread_mutex_lock(&ready.lock);
  }
  pthread_mutex_unlock(&ready.lock);
  while (sem_trywait(&ready.news) == 0)
    ;
}

/* Descriptors were lost: this process has no room for them. The command goes the ordinary
 * way, which says so. */
static void read_rest(struct server *s) {
  size_t room, n = ready.nrest;
  unsigned char *to = n ? inbox_room(&s->conn.in, &room) : NULL;
  ready.nrest = 0;
  if (!to || room < n)
    return; /* it was empty, and has so much */
  memcpy(to, ready.rest, n);
  (void)inbox_fed(&s->conn.in, n, NULL);
  (void)inbox_cut(&s->conn.in);
}

int thread_ready_wait(struct server *s) {
  static int prepared;
  if (!s->lends || !is_empty(s))
    return 0;
  if (!prepared && sem_init(&ready.news, 0, 0) < 0)
    return 0;
  prepared = 1;
  if (!make(s)) {
    s->lends = NULL;
    return 0;
  }
  pthread_mutex_lock(&ready.lock);
  while (!ready.over && look_after(s))
    ;
  pthread_mutex_unlock(&ready.lock);
  end_all();
  ready.over = 0;
  read_rest(s);
  s->lends = NULL;
  return 1;
}
