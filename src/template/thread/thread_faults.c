#include "template/thread/thread_faults.h"

#include "image/relocate.h"
#include "os/fd.h"
#include "template/thread/thread_record.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/userfaultfd.h>
#endif

/* More clones than there are bells don't find room in an address space of 128 TiB. */
enum { BELLS = 2048 };

static struct {
  sem_t started;
  enum { OFF, ON } state;
  int error;    /* of the last start */
  pid_t thread; /* of the last one; 0: none was */
  size_t page;
  char *bells;
  struct faults_request requests[BELLS];
  struct lazy *clones[BELLS];
  size_t n, last; /* clones, and the last bell of one */
  int fd;         /* the server's own */
} all;            /* zero at first: births write to the page of what is not */

int faults_list(struct lazy *z) {
  int r = -EAGAIN;
  picture_lock();
  for (size_t i = FAULTS_TEMPLATE + 1; i < BELLS && r < 0; i++) {
    if (all.clones[i])
      continue;
    all.clones[i] = z;
    all.n++;
    if (all.last < i)
      all.last = i;
    z->bell = i;
    r = 0;
  }
  picture_unlock();
  return r;
}

void faults_unlist(struct lazy *z) {
  if (z->bell == FAULTS_TEMPLATE)
    return; /* it was refused */
  picture_lock();
  all.clones[z->bell] = NULL;
  all.n--;
  while (all.last > FAULTS_TEMPLATE && !all.clones[all.last])
    all.last--;
  picture_unlock();
}

#ifndef UFFDIO_COPY /* another system */

const char *faults_reason(void) {
  return "this system has no userfaultfd(2)";
}

int faults_start(void) {
  return -ENOSYS;
}

int faults_ask(size_t bell, struct faults_request request) {
  (void)bell, (void)request;
  return -ENOSYS;
}

void faults_stop(void) {
}

#else

/* ---- on the server, with the lock ---- */

enum {
  PIECE = 64 << 10, /* what is corrected at once */
  WINDOW_MAX = 32,  /* chunks, for who goes on where the last ones end */
  IDLE_MS = 1000,
  MESSAGES = 16
};

/* Memory is short: who waits for it can't go on, and nobody could tell it so. */
static void await_memory(int attempt) {
  enum { ATTEMPTS = 2000 };
  static const struct timespec pause = {0, 1000000};
  if (attempt > ATTEMPTS)
    (void)kill(getpid(), SIGKILL); /* as the kernel does */
  (void)nanosleep(&pause, NULL);
}

static void wake(char *to, uint64_t n) {
  struct uffdio_range range = {(uint64_t)(uintptr_t)to, n};
  (void)ioctl(all.fd, UFFDIO_WAKE, &range);
}

/* Pages that are there already stay, and so does what is no part of the clone any more: a
 * block that it has given back. */
static void put(char *to, const char *from, uint64_t n) {
  uint64_t step = n, done = 0;
  int skipped = 0;
  for (int attempt = 0; done < n;) {
    if (step > n - done)
      step = n - done;
    struct uffdio_copy copy = {(uint64_t)(uintptr_t)to + done,
                               (uint64_t)(uintptr_t)from + done, step, 0, 0};
    if (ioctl(all.fd, UFFDIO_COPY, &copy) == 0) {
      done += step;
    } else if (copy.copy > 0) {
      done += (uint64_t)copy.copy;
    } else if (errno == ENOMEM) {
      await_memory(++attempt);
    } else if (errno != EAGAIN && step > all.page && errno != EEXIST) {
      step = all.page; /* a part of it is none any more */
    } else if (errno != EAGAIN) {
      done += all.page;
      skipped = 1;
    }
  }
  if (skipped)
    wake(to, n);
}

/* A copy of the process that C code makes has nobody who serves it: there these addresses
 * are none, where they would be zeros. */
static int register_range(void *data, struct heap_range range) {
  const struct lazy *z = data;
  struct uffdio_register r = {
      .range = {(uint64_t)(uintptr_t)z->to + range.at, range.size},
      .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (madvise(z->to + range.at, (size_t)range.size, MADV_DONTFORK) < 0 ||
      ioctl(all.fd, UFFDIO_REGISTER, &r) < 0)
    return -errno;
  return 0;
}

static int unregister_range(void *data, struct heap_range range) {
  const struct lazy *z = data;
  struct uffdio_range r = {(uint64_t)(uintptr_t)z->to + range.at, range.size};
  (void)ioctl(all.fd, UFFDIO_UNREGISTER, &r);
  (void)madvise(z->to + range.at, (size_t)range.size, MADV_DOFORK);
  return 0;
}

/* Neighbours that are missing, at most PIECE of them. Returns the first one behind. */
static size_t fill_piece(struct lazy *z, const struct picture_part *part, size_t chunk,
                         size_t end) {
  static char buffer[PIECE] __attribute__((aligned(64)));
  uint64_t off = (uint64_t)(chunk - part->first) * CHUNK, n = 0;
  size_t first = chunk;
  do
    n += picture_chunk_size(part, chunk);
  while (++chunk < end && n + CHUNK <= PIECE && !lazy_has(z, chunk));
  relocate_copy(buffer, part->memory + off, (size_t)n,
                z->picture->bits + (part->at + off) / 512, z->difference);
  put(z->to + part->at + off, buffer, n);
  for (; first < chunk; first++)
    lazy_mark(z, part, first);
  return chunk;
}

/* Those of n that are missing, in this part. */
static void fill(struct lazy *z, const struct picture_part *part, size_t chunk,
                 size_t n) {
  size_t end = part->first + picture_chunks(part->size);
  if (n < end - chunk)
    end = chunk + n;
  while (chunk < end)
    chunk = lazy_has(z, chunk) ? chunk + 1 : fill_piece(z, part, chunk, end);
}

static void complete(struct lazy *z) {
  if (!z->picture || z->missing > 0)
    return;
  (void)picture_ranges(z->picture, unregister_range, z);
  if (z->picture->teacher == z)
    z->picture->teacher = NULL;
  picture_release(z->picture);
  z->picture = NULL;
}

/* Of all parts that it touches. */
static void fill_range(struct lazy *z, struct heap_range range) {
  const struct picture *p = z->picture;
  uint64_t range_end = range.at + range.size;
  for (size_t i = 0; i < p->nparts && p->parts[i].at < range_end; i++) {
    const struct picture_part *part = &p->parts[i];
    uint64_t end = part->at + part->size;
    if (end <= range.at)
      continue;
    uint64_t from = range.at > part->at ? range.at - part->at : 0;
    uint64_t to = (range_end < end ? range_end : end) - part->at;
    size_t chunk = part->first + (size_t)(from / CHUNK);
    fill(z, part, chunk, part->first + picture_chunks(to) - chunk);
  }
}

static void learn(struct lazy *z, size_t chunk) {
  struct picture *p = z->picture;
  if (p->teacher == z && p->nlearnt < LEARNT_MAX)
    p->learnt[p->nlearnt++] = chunk;
}

static void begin(struct faults_request *r) {
  struct lazy *z = r->lazy;
  struct picture *p = z->picture;
  int error = picture_ranges(p, register_range, z);
  if (error < 0) {
    r->error = error;
    return;
  }
  for (size_t i = 0; i < r->n; i++)
    fill_range(z, r->ranges[i]);
  for (size_t i = 0; i < p->nlearnt; i++)
    fill(z, picture_part_of(p, p->learnt[i]), p->learnt[i], 1);
  complete(z);
}

static struct lazy *clone_at(uintptr_t at) {
  for (size_t i = FAULTS_TEMPLATE + 1; i <= all.last; i++)
    if (all.clones[i] && at - (uintptr_t)all.clones[i]->to < all.clones[i]->extent)
      return all.clones[i];
  return NULL;
}

static size_t how_many(struct lazy *z, size_t chunk) {
  struct lazy_stream *s = &z->streams[z->oldest % STREAMS];
  size_t n = 1;
  for (int i = 0; i < STREAMS; i++)
    if (z->streams[i].next == chunk) {
      s = &z->streams[i];
      n = s->n < WINDOW_MAX ? s->n * 2 : WINDOW_MAX;
    }
  z->oldest += n == 1;
  *s = (struct lazy_stream){chunk + n, n};
  return n;
}

static void serve_touch(char *at) {
  struct lazy *z = clone_at((uintptr_t)at);
  uint64_t offset = z ? (uint64_t)(at - z->to) : 0;
  const struct picture_part *part =
      z && z->picture ? picture_part_at(z->picture, offset) : NULL;
  if (!part) { /* it has ended, or got everything, since then */
    wake(at, all.page);
    return;
  }
  size_t chunk = part->first + (size_t)((offset - part->at) / CHUNK);
  if (lazy_has(z, chunk)) { /* since then, or a page of it was given back */
    (void)fill_piece(z, part, chunk, chunk + 1);
    return;
  }
  learn(z, chunk);
  fill(z, part, chunk, how_many(z, chunk));
  complete(z);
}

/* 1: it is to end. */
static int serve_bell(size_t bell) {
  struct faults_request *r = &all.requests[bell];
  struct uffdio_zeropage zero = {
      {(uint64_t)(uintptr_t)(all.bells + bell * all.page), all.page}, 0, 0};
  int stops = r->kind == FAULTS_STOP && all.n == 0;
  if (r->kind == FAULTS_REGISTER)
    begin(r);
  if (r->kind == FAULTS_FILL && r->lazy->picture) {
    fill_range(r->lazy, *r->ranges);
    complete(r->lazy);
  }
  if (r->kind == FAULTS_UNREGISTER)
    (void)unregister_range(r->lazy, *r->ranges);
  r->kind = FAULTS_NOTHING;
  if (ioctl(all.fd, UFFDIO_ZEROPAGE, &zero) < 0)
    wake(all.bells + bell * all.page, all.page);
  return stops;
}

static int serve(const struct uffd_msg *m) {
  char *at = (char *)(uintptr_t)(m->arg.pagefault.address & ~(uint64_t)(all.page - 1));
  if (m->event != UFFD_EVENT_PAGEFAULT)
    return 0;
  if (at >= all.bells && at < all.bells + BELLS * all.page)
    return serve_bell((size_t)(at - all.bells) / all.page);
  serve_touch(at);
  return 0;
}

/* ---- the server ---- */

/* Says nothing of the next time. */
static int is_used_up(int error) {
  return error == EMFILE || error == ENFILE || error == ENOMEM;
}

/* Serves the kernel's accesses, too. */
static int open_fault_fd(void) {
  int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
#ifdef USERFAULTFD_IOC_NEW
  if (fd < 0 && (errno == EPERM || errno == ENOSYS)) {
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device >= 0)
      fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    int error = errno;
    fd_close(&device);
    errno = is_used_up(error) ? error : EPERM;
  }
#endif
  struct uffdio_api api = {.api = UFFD_API};
  if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
    int error = errno;
    fd_close(&fd);
    errno = error;
  }
  return fd;
}

static pthread_mutex_t look_lock = PTHREAD_MUTEX_INITIALIZER;
static int is_looked_up;
static char why_not[256];

/* Where no descriptor is free here the server still has one, in a table of its own. */
static void look_up(void) {
  int fd = open_fault_fd(), error = errno;
  is_looked_up = fd >= 0 || !is_used_up(error);
  if (fd < 0 && is_looked_up)
    snprintf(why_not, sizeof why_not,
             "userfaultfd(2): %s. It needs the right to open /dev/userfaultfd, "
             "CAP_SYS_PTRACE, or vm.unprivileged_userfaultfd=1 (sysctl)",
             strerror(error));
  else if ((size_t)sysconf(_SC_PAGESIZE) > CHUNK)
    snprintf(why_not, sizeof why_not, "pages of this machine are too large");
  fd_close(&fd);
}

const char *faults_reason(void) {
  pthread_mutex_lock(&look_lock);
  if (!is_looked_up)
    look_up();
  pthread_mutex_unlock(&look_lock);
  return why_not[0] ? why_not : NULL;
}

/* 0 or an errno. */
static int prepare(void) {
  if (unshare(CLONE_FILES) < 0)
    return errno;
  fd_close_from(0, NULL, 0);
  all.fd = open_fault_fd();
  if (all.fd < 0)
    return errno;
  struct uffdio_register bells = {
      .range = {(uint64_t)(uintptr_t)all.bells, BELLS * all.page},
      .mode = UFFDIO_REGISTER_MODE_MISSING};
  return ioctl(all.fd, UFFDIO_REGISTER, &bells) < 0 ? errno : 0;
}

static void settle(int error) {
  picture_lock();
  all.error = error;
  all.state = error ? OFF : ON;
  all.thread = (pid_t)syscall(SYS_gettid);
  picture_unlock();
  sem_post(&all.started);
}

static int serve_some(int idle) {
  struct uffd_msg messages[MESSAGES];
  ssize_t n = read(all.fd, messages, sizeof messages);
  int ends = 0;
  picture_lock();
  for (ssize_t i = 0; i < n / (ssize_t)sizeof *messages; i++)
    ends |= serve(&messages[i]);
  ends |= idle && n <= 0 && all.n == 0 &&
          all.requests[FAULTS_TEMPLATE].kind == FAULTS_NOTHING;
  if (ends)
    all.state = OFF;
  picture_unlock();
  return ends;
}

static void *run(void *data) {
  int error = prepare();
  (void)data;
  settle(error);
  while (!error) {
    struct pollfd p = {.fd = all.fd, .events = POLLIN};
    int r = poll(&p, 1, IDLE_MS);
    if (serve_some(r == 0))
      break;
  }
  return NULL; /* the descriptor is closed with its table */
}

static int launch(void) {
  memset(all.requests, 0, sizeof all.requests); /* nobody asks */
  all.page = (size_t)sysconf(_SC_PAGESIZE);
  if (all.bells) /* of the one before, which may not be gone yet */
    munmap(all.bells, BELLS * all.page);
  all.bells = mmap(NULL, BELLS * all.page, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (all.bells == MAP_FAILED) {
    all.bells = NULL;
    return ENOMEM;
  }
  if (sem_init(&all.started, 0, 0) < 0)
    return errno;
  int error = thread_launch(run, NULL);
  while (!error && sem_wait(&all.started) < 0 && errno == EINTR)
    ;
  return error ? error : all.error;
}

int faults_start(void) {
  picture_lock();
  int is_off = all.state == OFF;
  picture_unlock();
  if (!is_off)
    return 0;
  return -launch();
}

/* ---- elsewhere ---- */

/* Returns its error when the server has done it. */
int faults_ask(size_t bell, struct faults_request request) {
  char *page = all.bells + bell * all.page;
  (void)madvise(page, all.page, MADV_DONTNEED);
  picture_lock();
  all.requests[bell] = request;
  picture_unlock();
  (void)*(volatile char *)page;
  picture_lock();
  int error = all.requests[bell].error;
  picture_unlock();
  return error;
}

void faults_stop(void) {
  static const struct timespec pause = {0, 50000};
  picture_lock();
  int is_on = all.state == ON && all.n == 0;
  picture_unlock();
  if (is_on)
    (void)faults_ask(FAULTS_TEMPLATE,
                     (struct faults_request){FAULTS_STOP, NULL, NULL, 0, 0});
  picture_lock();
  pid_t gone = all.state == OFF ? all.thread : 0;
  all.thread = gone ? 0 : all.thread;
  picture_unlock();
  while (gone && syscall(SYS_tgkill, getpid(), gone, 0) == 0)
    (void)nanosleep(&pause, NULL);
}

#endif
