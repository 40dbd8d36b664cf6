/* Host names (resolve.h). The thread and its asker share a job; whoever comes last to the
 * state frees it:
 *
 *   RUNNING -> DONE       (thread)  the asker is woken, joins and frees
 *   RUNNING -> ABANDONED  (asker)   the thread frees when it is done
 *
 * The thread blocks all signals, so that it runs nobody's handler. */
#include "socket/resolve.h"

#include "base/result.h"
#include "os/fd.h"
#include "os/thread.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { RUNNING, DONE, ABANDONED };
enum { STACK_SIZE = 512 * 1024 };

struct resolve_job {
  struct address address;
  struct addrinfo hints;
  pthread_t thread;
  int wake_fd; /* the thread's: closed to say that it is done */
  int code;    /* of getaddrinfo */
  int error;   /* errno for EAI_SYSTEM */
  struct addrinfo *answer;
  atomic_int state;
};

static int errno_of(int code, int error) {
  switch (code) {
  case 0:
    return 0;
  case EAI_MEMORY:
    return -ENOMEM;
  case EAI_AGAIN:
    return -EAGAIN;
  case EAI_SYSTEM:
    return error != 0 ? -error : -EIO;
  default:
    return -EHOSTUNREACH;
  }
}

static int ask_resolver(const struct address *a, const struct addrinfo *hints, int flags,
                        struct addrinfo **ret) {
  struct addrinfo h = *hints;
  h.ai_flags |= flags;
  return getaddrinfo(a->host[0] ? a->host : NULL, a->service, &h, ret);
}

static int settle(struct resolve *k, int code, int error, const char **ret_text) {
  int r = errno_of(code, error);
  if (r < 0)
    *ret_text = code == EAI_SYSTEM ? strerror(-r) : gai_strerror(code);
  else
    k->list = k->answer;
  return r;
}

static void job_free(struct resolve_job *j) {
  if (j->answer)
    freeaddrinfo(j->answer);
  fd_close(&j->wake_fd);
  free(j);
}

static void *job_main(void *arg) {
  struct resolve_job *j = arg;
  j->code = ask_resolver(&j->address, &j->hints, 0, &j->answer);
  j->error = errno;
  int wake_fd = j->wake_fd;
  j->wake_fd = -1;
  if (atomic_exchange(&j->state, DONE) == ABANDONED)
    job_free(j);
  fd_close(&wake_fd);
  return NULL;
}

static int open_pipe(int ret_fd[2]) {
  if (pipe2(ret_fd, O_CLOEXEC | O_NONBLOCK) != 0)
    return -errno;
  for (int i = 0; i < 2; i++) {
    ret_fd[i] = fd_raise(ret_fd[i]);
    if (ret_fd[i] < 0) {
      int r = ret_fd[i];
      fd_close(&ret_fd[!i]);
      return r;
    }
  }
  return 0;
}

static int start_job(struct resolve *k, const struct address *a,
                     const struct addrinfo *hints) {
  int fd[2];
  struct resolve_job *j = calloc(1, sizeof *j);
  if (!j)
    return -ENOMEM;
  j->address = *a;
  j->hints = *hints;
  j->wake_fd = -1;
  int r = open_pipe(fd);
  if (r == 0) {
    k->wait_fd = fd[0];
    j->wake_fd = fd[1];
    r = thread_start(&j->thread, STACK_SIZE, job_main, j);
  }
  if (r < 0) {
    job_free(j);
    return r;
  }
  k->job = j;
  return 0;
}

void resolve_init(struct resolve *k) {
  memset(k, 0, sizeof *k);
  k->wait_fd = -1;
}

static int unix_answer(struct resolve *k, const struct address *a,
                       const char **ret_text) {
  int r = address_to_unix(a, &k->unix_name, &k->unix_info.ai_addrlen);
  if (r < 0) {
    *ret_text = strerror(-r);
    return r;
  }
  k->unix_info.ai_family = AF_UNIX;
  k->unix_info.ai_socktype = a->is_datagram ? SOCK_DGRAM : SOCK_STREAM;
  k->unix_info.ai_addr = (struct sockaddr *)&k->unix_name;
  k->list = &k->unix_info;
  return 0;
}

int resolve_start(struct resolve *k, const struct address *a, int passive, int may_block,
                  const char **ret_text) {
  if (a->path[0] != '\0')
    return unix_answer(k, a, ret_text);
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
  hints.ai_flags = passive ? AI_PASSIVE : 0;
  int code = ask_resolver(a, &hints, AI_NUMERICHOST | AI_NUMERICSERV, &k->answer);
  if (code == 0 || (code != EAI_NONAME && code != EAI_SERVICE))
    return settle(k, code, errno, ret_text);
  if (may_block) {
    code = ask_resolver(a, &hints, 0, &k->answer);
    return settle(k, code, errno, ret_text);
  }
  int r = start_job(k, a, &hints);
  if (r < 0)
    *ret_text = strerror(-r);
  return r;
}

int resolve_poll(struct resolve *k, const char **ret_text) {
  char none;
  if (k->list)
    return 0;
  struct resolve_job *j = k->job;
  if (!j) {
    *ret_text = strerror(EINVAL);
    return -EINVAL;
  }
  ssize_t n = read(k->wait_fd, &none, 1);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return MF_AGAIN;
  k->job = NULL;
  pthread_join(j->thread, NULL);
  k->answer = j->answer;
  j->answer = NULL;
  int code = j->code, error = j->error;
  job_free(j);
  fd_close(&k->wait_fd);
  return settle(k, code, error, ret_text);
}

/* Nobody can send to a datagram socket without a name, and it is a single descriptor. */
int resolve_quiet_fd(struct resolve *k) {
  if (k->wait_fd >= 0)
    return k->wait_fd;
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return -errno;
  return k->wait_fd = fd_raise(fd);
}

void resolve_deinit(struct resolve *k) {
  struct resolve_job *j = k->job;
  k->job = NULL;
  if (j) {
    pthread_t thread = j->thread;
    pthread_detach(thread);
    if (atomic_exchange(&j->state, ABANDONED) == DONE)
      job_free(j);
  }
  if (k->answer)
    freeaddrinfo(k->answer);
  k->answer = NULL;
  k->list = NULL;
  fd_close(&k->wait_fd);
}
