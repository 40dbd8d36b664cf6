/* What two relays between a parent and its template cost at least: the way of a fork over
 * fork.remote, and nothing else. No windows, no births, no protocol but records of one
 * size. For decision 009; built on demand (`ninja -C build bench/relay_bench`). Linux.
 *
 *   relay_bench 0|2 COUNT INFLIGHT    relays, forks, forks under way at the same time
 *
 * prints microseconds per fork, and for each process its voluntary context switches and
 * microseconds of processor time per fork; the template's are with its children's forks,
 * not with their lives. */
#include "bench.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum {
  COMMAND = 51, /* bytes of a fork and of the answer, as moonfork's are */
  ANSWER = 16,
  EVENTS = 64,
  CHANNELS = 1 << 20,
  HEAP = 4 << 20
};

enum kind { FORK = 1, BYTES, END, GONE };
enum { STREAM, OTHER }; /* what is watched; further numbers are channels */

struct record {
  uint32_t kind, id;
  char bytes[56];
};

static int channels[CHANNELS]; /* descriptors; 0: there is none */
static int epoll;
static struct record out[1024];
static int nout;
static int late[EVENTS], nlate; /* closed after what somebody waits for is written */

static void must(int done, const char *what) {
  if (!done)
    give_up(what);
}

static void pair(int ends[2]) {
  must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair");
}

/* ---- descriptors ---- */

union control {
  struct cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int))];
};

static void send_fd(int s, int fd, const char *bytes) {
  union control c = {.bytes = {0}};
  struct iovec iov = {(void *)(uintptr_t)bytes, COMMAND};
  struct msghdr m = {.msg_iov = &iov,
                     .msg_iovlen = 1,
                     .msg_control = c.bytes,
                     .msg_controllen = sizeof c.bytes};
  struct cmsghdr *h = CMSG_FIRSTHDR(&m);
  h->cmsg_level = SOL_SOCKET;
  h->cmsg_type = SCM_RIGHTS;
  h->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(h), &fd, sizeof fd);
  must(sendmsg(s, &m, MSG_NOSIGNAL) == COMMAND, "sendmsg");
}

static ssize_t receive(int s, char *bytes, size_t n, int *ret_fd) {
  union control c;
  struct iovec iov = {bytes, n};
  struct msghdr m = {.msg_iov = &iov,
                     .msg_iovlen = 1,
                     .msg_control = c.bytes,
                     .msg_controllen = sizeof c.bytes};
  ssize_t got = recvmsg(s, &m, MSG_CMSG_CLOEXEC);
  struct cmsghdr *h = got > 0 ? CMSG_FIRSTHDR(&m) : NULL;
  if (h)
    memcpy(ret_fd, CMSG_DATA(h), sizeof *ret_fd);
  return got;
}

/* ---- the template: children of its parent's ---- */

static void set_policy(int policy) {
  struct sched_param p = {0};
  sched_setscheduler(0, policy, &p);
}

static void serve(int s) {
  char bytes[COMMAND], *heap = malloc(HEAP);
  int fd = -1;
  must(heap != NULL, "malloc");
  memset(heap, 1, HEAP);
  while (receive(s, bytes, sizeof bytes, &fd) == COMMAND) {
    set_policy(SCHED_BATCH);
    long pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0);
    must(pid >= 0, "clone");
    if (pid == 0) {
      set_policy(SCHED_OTHER);
      for (int i = 0; i < 8; i++)
        heap[i * 7 * 4096] = 2;
      _exit(write(fd, bytes, ANSWER) != ANSWER);
    }
    close(fd);
  }
  _exit(0);
}

/* ---- the relays ---- */

static void watch(int fd, uint32_t id) {
  struct epoll_event e = {.events = EPOLLIN, .data.u32 = id};
  must(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e) == 0, "epoll_ctl");
}

static void put(enum kind kind, uint32_t id, const char *bytes, size_t n) {
  struct record *r = &out[nout++];
  *r = (struct record){.kind = kind, .id = id};
  if (n)
    memcpy(r->bytes, bytes, n);
}

static void close_late(int fd) {
  if (nlate == EVENTS)
    close(late[--nlate]);
  late[nlate++] = fd;
}

static void drop(uint32_t id) {
  if (channels[id])
    close_late(channels[id]);
  channels[id] = 0;
}

static void end_turn(int to) {
  size_t n = (size_t)nout * sizeof *out;
  if (n)
    must(write(to, out, n) == (ssize_t)n, "write");
  nout = 0;
  while (nlate > 0)
    close(late[--nlate]);
}

/* The stream's; returns how many. It ends with its writer. */
static int take(int in, struct record *records) {
  ssize_t n = read(in, records, EVENTS * sizeof *records);
  if (n <= 0)
    _exit(0);
  return (int)(n / (ssize_t)sizeof *records);
}

static void read_channel(uint32_t id) {
  char bytes[ANSWER];
  if (!channels[id])
    return;
  if (recv(channels[id], bytes, sizeof bytes, 0) > 0) {
    put(BYTES, id, bytes, sizeof bytes);
    return;
  }
  drop(id);
  put(END, id, NULL, 0);
}

static void reap(int signals) {
  struct signalfd_siginfo si;
  pid_t pid;
  int status;
  must(read(signals, &si, sizeof si) > 0, "signalfd");
  while ((pid = wait4(-1, &status, WNOHANG, NULL)) > 0)
    put(GONE, (uint32_t)pid, NULL, 0);
}

static void agent_take(int in, int template, int ahead[2]) {
  struct record r[EVENTS];
  int n = take(in, r);
  for (int i = 0; i < n; i++) {
    if (r[i].kind != FORK) {
      drop(r[i].id);
      continue;
    }
    if (ahead[0] < 0)
      pair(ahead);
    channels[r[i].id] = ahead[0];
    watch(ahead[0], r[i].id);
    send_fd(template, ahead[1], r[i].bytes);
    close_late(ahead[1]);
    ahead[0] = -1;
  }
}

static void agent(int in, int to, int template) {
  struct epoll_event events[EVENTS];
  int ahead[2], signals;
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  signals = signalfd(-1, &set, SFD_NONBLOCK);
  epoll = epoll_create1(0);
  watch(in, STREAM);
  watch(signals, OTHER);
  pair(ahead);
  for (;;) {
    int n = epoll_wait(epoll, events, EVENTS, -1);
    for (int i = 0; i < n; i++) {
      if (events[i].data.u32 == STREAM)
        agent_take(in, template, ahead);
      else if (events[i].data.u32 == OTHER)
        reap(signals);
      else
        read_channel(events[i].data.u32);
    }
    end_turn(to);
    if (ahead[0] < 0)
      pair(ahead);
  }
}

static void near_take(int in, int side) {
  struct record r[EVENTS];
  uint32_t gone[EVENTS];
  int n = take(in, r);
  size_t ngone = 0;
  for (int i = 0; i < n; i++) {
    if (r[i].kind == GONE)
      gone[ngone++] = r[i].id;
    else if (r[i].kind == END)
      drop(r[i].id);
    else if (channels[r[i].id])
      send(channels[r[i].id], r[i].bytes, ANSWER, MSG_NOSIGNAL);
  }
  if (ngone)
    send(side, gone, ngone * sizeof *gone, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void near(int control, int side, int in, int to) {
  struct epoll_event events[EVENTS];
  uint32_t next = OTHER + 1;
  epoll = epoll_create1(0);
  watch(in, STREAM);
  watch(control, OTHER);
  for (;;) {
    int n = epoll_wait(epoll, events, EVENTS, -1);
    for (int i = 0; i < n; i++) {
      char bytes[COMMAND];
      int fd = -1;
      if (events[i].data.u32 == STREAM) {
        near_take(in, side);
      } else if (events[i].data.u32 != OTHER) {
        read_channel(events[i].data.u32);
      } else if (receive(control, bytes, sizeof bytes, &fd) <= 0) {
        _exit(0);
      } else {
        channels[next] = fd;
        put(FORK, next, bytes, sizeof bytes);
        watch(fd, next++);
      }
    }
    end_turn(to);
  }
}

/* ---- the parent ---- */

static struct {
  const char *name;
  pid_t pid;
  double us;
  long switches;
} who[] = {
    {.name = "parent"}, {.name = "near end"}, {.name = "agent"}, {.name = "template"}};

static double number(pid_t pid, const char *file, const char *behind) {
  char path[64], text[4096];
  snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
  int fd = open(path, O_RDONLY);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  close(fd);
  text[n > 0 ? n : 0] = 0;
  const char *at = strstr(text, behind);
  return at ? strtod(at + strlen(behind), NULL) : 0;
}

/* What each has used, less what it had: sign -1, then 1. */
static void count(int sign) {
  for (size_t i = 0; i < sizeof who / sizeof *who; i++) {
    if (!who[i].pid)
      continue;
    who[i].us += sign * number(who[i].pid, "schedstat", "") / 1e3;
    who[i].switches +=
        sign * (long)number(who[i].pid, "status", "\nvoluntary_ctxt_switches:");
  }
}

static pid_t start(void) {
  pid_t pid = fork();
  must(pid >= 0, "fork");
  if (pid == 0)
    prctl(PR_SET_PDEATHSIG, SIGKILL);
  return pid;
}

static void start_template(int control[2]) {
  who[3].pid = start();
  if (who[3].pid == 0) {
    close(control[0]);
    serve(control[1]);
  }
  close(control[1]);
}

static void start_agent(int in, int to, int pids) {
  int control[2];
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigprocmask(SIG_BLOCK, &set, NULL);
  pair(control);
  start_template(control);
  must(write(pids, &who[3].pid, sizeof who[3].pid) > 0, "write");
  agent(in, to, control[0]);
}

/* Returns the side, on which the near end tells of ends. */
static int start_relays(const int control[2]) {
  int there[2], back[2], pids[2], side[2];
  must(!pipe(there) && !pipe(back) && !pipe(pids), "pipe");
  pair(side);
  who[2].pid = start();
  if (who[2].pid == 0) {
    close(control[0]);
    close(control[1]);
    close(there[1]);
    start_agent(there[0], back[1], pids[1]);
  }
  who[1].pid = start();
  if (who[1].pid == 0) {
    close(control[0]);
    near(control[1], side[1], back[0], there[1]);
  }
  must(read(pids[0], &who[3].pid, sizeof who[3].pid) > 0, "read");
  close(control[1]);
  return side[0];
}

static void ask(int control) {
  static const char bytes[COMMAND];
  int ends[2];
  pair(ends);
  watch(ends[0], (uint32_t)ends[0]);
  send_fd(control, ends[1], bytes);
  close(ends[1]);
}

static void hear_of_ends(int side) {
  char text[4096];
  int status;
  if (side < 0)
    while (wait4(-1, &status, WNOHANG, NULL) > 0)
      ;
  else
    while (recv(side, text, sizeof text, MSG_DONTWAIT) == (ssize_t)sizeof text)
      ;
}

int main(int argc, char **argv) {
  int relays = argument(argc, argv, 1, -1), n = argument(argc, argv, 2, 0);
  int inflight = argument(argc, argv, 3, 1), control[2], side = -1;
  int warmup = n / 5 + 1, asked = 0, done = 0;
  double began = 0;
  if ((relays != 0 && relays != 2) || n < 1 || inflight < 1 || inflight > EVENTS / 2 ||
      n > CHANNELS / 2) {
    fprintf(stderr, "usage: %s 0|2 COUNT INFLIGHT\n", argv[0]);
    return 2;
  }
  pair(control);
  who[0].pid = getpid();
  if (relays)
    side = start_relays(control);
  else
    start_template(control);
  epoll = epoll_create1(0);
  while (done < warmup + n) {
    struct epoll_event events[EVENTS];
    for (; asked < warmup + n && asked - done < inflight; asked++)
      ask(control[0]);
    int ready = epoll_wait(epoll, events, EVENTS, -1);
    for (int i = 0; i < ready; i++) {
      char bytes[ANSWER];
      int fd = (int)events[i].data.u32;
      must(recv(fd, bytes, sizeof bytes, 0) == ANSWER, "recv");
      close(fd);
      if (++done == warmup) {
        count(-1);
        began = now_us();
      }
    }
    hear_of_ends(side);
  }
  printf("%.1f us", (now_us() - began) / n);
  count(1);
  for (size_t i = 0; i < sizeof who / sizeof *who; i++)
    if (who[i].pid)
      printf(", %s %.2f switches %.1f us", who[i].name, (double)who[i].switches / n,
             who[i].us / n);
  puts("");
  return 0;
}
