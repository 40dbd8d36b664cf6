/* See descriptor.h. The link in /proc/self/fd names what has no other name; the rest
 * fstat(2) knows also without /proc. */
#include "template/audit/descriptor.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/sysmacros.h>
#endif

/* The link of fd, "" where it can't be read. Printable, whatever the file is called. */
static void read_link(int fd, char *ret, size_t n) {
  char path[32];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(path, ret, n - 1);
  ret[length < 0 ? 0 : length] = '\0';
  for (char *p = ret; *p != '\0'; p++)
    if ((unsigned char)*p < ' ' || *p == 0x7f)
      *p = '?';
}

static const struct {
  const char *link, *what;
  enum audit_kind kind;
} links[] = {
    {"anon_inode:[eventpoll]", "an epoll descriptor", AUDIT_EPOLL},
    {"anon_inode:[io_uring]", "an io_uring descriptor", AUDIT_IO_URING},
    {"anon_inode:[timerfd]", "a timerfd", AUDIT_TIMERFD},
    {"anon_inode:[signalfd]", "a signalfd", AUDIT_SIGNALFD},
    {"anon_inode:[eventfd]", "an eventfd", AUDIT_EVENTFD},
    {"anon_inode:inotify", "an inotify descriptor", AUDIT_INOTIFY},
    {"anon_inode:[fanotify]", "a fanotify descriptor", AUDIT_FANOTIFY},
    {"anon_inode:[perf_event]", "a perf descriptor", AUDIT_PERF_EVENT},
    {"anon_inode:[userfaultfd]", "a userfaultfd", AUDIT_USERFAULTFD},
    {"anon_inode:[pidfd]", "a pidfd", AUDIT_PIDFD},
    {"pidfd:", "a pidfd", AUDIT_PIDFD}, /* Linux 6.9 */
};

static int look_at_link(const char *link, enum audit_kind *ret_kind, char *ret,
                        size_t n) {
  for (size_t i = 0; i < sizeof links / sizeof *links; i++)
    if (strncmp(link, links[i].link, strlen(links[i].link)) == 0) {
      *ret_kind = links[i].kind;
      snprintf(ret, n, "%s", links[i].what);
      return 1;
    }
  return 0;
}

static int look_at_socket(int fd, enum audit_kind *ret_kind, char *ret, size_t n) {
  struct sockaddr_storage peer;
  socklen_t size = sizeof peer;
  int listening = 0;
  socklen_t nlistening = sizeof listening;
  const char *what = "a socket";
  *ret_kind = AUDIT_SOCKET;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &nlistening) == 0 &&
      listening) {
    *ret_kind = AUDIT_LISTENER;
    what = "a listening socket";
  } else if (getpeername(fd, (struct sockaddr *)&peer, &size) == 0) {
    *ret_kind = AUDIT_CONNECTION;
    what = "a connected socket";
  }
  snprintf(ret, n, "%s", what);
  return 1;
}

static int look_at_file(int fd, const char *link, enum audit_kind *ret_kind, char *ret,
                        size_t n) {
  int flags = fcntl(fd, F_GETFL), writes = (flags & O_ACCMODE) != O_RDONLY;
#ifdef O_PATH
  if (flags & O_PATH)
    return 0;
#endif
  if (strncmp(link, "/memfd:", 7) == 0) {
    *ret_kind = AUDIT_MEMFD;
    snprintf(ret, n, "a file in memory (%s)", link + 1);
    return 1;
  }
  *ret_kind = writes ? AUDIT_FILE_WRITTEN : AUDIT_FILE;
  snprintf(ret, n, "a file%s%s%s%s", writes ? " open for writing" : "", *link ? " (" : "",
           link, *link ? ")" : "");
  return 1;
}

/* /dev/null, zero, full, random, urandom have no state. */
static int has_no_state(const struct stat *st) {
#ifdef __linux__
  unsigned number = minor(st->st_rdev);
  return S_ISCHR(st->st_mode) && major(st->st_rdev) == 1 &&
         (number == 3 || number == 5 || (number >= 7 && number <= 9));
#else
  struct stat null;
  return S_ISCHR(st->st_mode) && stat("/dev/null", &null) == 0 &&
         null.st_rdev == st->st_rdev;
#endif
}

static int look_at_device(int fd, const struct stat *st, const char *link,
                          enum audit_kind *ret_kind, char *ret, size_t n) {
  if (has_no_state(st))
    return 0;
  *ret_kind = isatty(fd) ? AUDIT_TERMINAL : AUDIT_DEVICE;
  snprintf(ret, n, "a %s (%s)", *ret_kind == AUDIT_TERMINAL ? "terminal" : "device",
           link);
  return 1;
}

int descriptor_look(int fd, enum audit_kind *ret_kind, char *ret_what, size_t n) {
  char link[192];
  struct stat st;
  if (fstat(fd, &st) < 0)
    return 0;
  read_link(fd, link, sizeof link);
  if (look_at_link(link, ret_kind, ret_what, n))
    return 1;
  if (*link != '\0' && *link != '/' && !S_ISSOCK(st.st_mode) && !S_ISFIFO(st.st_mode)) {
    *ret_kind = AUDIT_KERNEL_OBJECT;
    snprintf(ret_what, n, "a kernel object (%s)", link);
    return 1;
  }
  switch (st.st_mode & S_IFMT) {
  case S_IFSOCK:
    return look_at_socket(fd, ret_kind, ret_what, n);
  case S_IFIFO:
    *ret_kind = AUDIT_PIPE;
    snprintf(ret_what, n, "a pipe");
    return 1;
  case S_IFDIR:
    *ret_kind = AUDIT_DIRECTORY;
    snprintf(ret_what, n, "a directory (%s)", link);
    return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
  case S_IFREG:
    return look_at_file(fd, link, ret_kind, ret_what, n);
  case S_IFCHR:
  case S_IFBLK:
    return look_at_device(fd, &st, link, ret_kind, ret_what, n);
  }
  return 0;
}

int descriptor_lock(int fd, const char **ret_how) {
  char path[48], line[256];
  int found = 0;
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
  FILE *f = fopen(path, "re");
  if (!f)
    return 0;
  while (!found && fgets(line, sizeof line, f)) {
    if (strncmp(line, "lock:", 5) != 0)
      continue;
    *ret_how = strstr(line, "FLOCK")    ? "flock"
               : strstr(line, "OFDLCK") ? "F_OFD_SETLK"
                                        : "fcntl";
    found = !strstr(line, "LEASE") && !strstr(line, "DELEG");
  }
  fclose(f);
  return found;
}
