#include "bind/far_handle.h"

#include "os/sock.h"
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

struct kind {
  const char *name, *advice;
};

static int sock_option(int fd, int option) {
  int value = 0;
  socklen_t size = sizeof value;
  return getsockopt(fd, SOL_SOCKET, option, &value, &size) < 0 ? 0 : value;
}

static struct kind socket_kind(int fd) {
  if (sock_option(fd, SO_TYPE) != SOCK_STREAM)
    return (struct kind){"a socket for datagrams or packets", "open one over there"};
  if (sock_option(fd, SO_ACCEPTCONN))
    return (struct kind){"a listening socket", "accept here, and send the connections"};
  return (struct kind){"a socket that is not connected", "connect it first"};
}

static struct kind kind_of(int fd) {
  struct stat st;
  if (fstat(fd, &st) < 0)
    return (struct kind){"no open descriptor", "send it before it is closed"};
  switch (st.st_mode & S_IFMT) {
  case S_IFREG:
    return (struct kind){"a file", "send what is in it, or open it over there"};
  case S_IFDIR:
    return (struct kind){"a directory", "open it over there"};
  case S_IFCHR:
  case S_IFBLK:
    return (struct kind){"a terminal or another device", "open it over there"};
  case S_IFIFO:
    return (struct kind){"a pipe that is open for reading and writing",
                         "send one of its ends"};
  case S_IFSOCK:
    return socket_kind(fd);
  default:
    return (struct kind){"an object of this machine's kernel (epoll, event, timer, ...)",
                         "make one over there"};
  }
}

const char *far_handle_refusal(char *room, const char *label, int fd) {
  if (sock_stream_kind(fd) > 0)
    return NULL;
  struct kind k = kind_of(fd);
  snprintf(room, FAR_HANDLE_TEXT,
           "%s is %s, which can't travel to a remote process: its link carries the bytes "
           "of connected stream sockets and of pipes (%s)",
           label, k.name, k.advice);
  return room;
}

const char *far_handles_refusal(char *room, const int *fds, size_t n) {
  const char *text = NULL;
  for (size_t i = 0; i < n && !text; i++) {
    char label[32];
    snprintf(label, sizeof label, "handle %zu", i + 1);
    text = far_handle_refusal(room, label, fds[i]);
  }
  return text;
}

const char *far_options_refusal(char *room, const mf_options *o, int is_remote) {
  static const char *const labels[] = {"the option stdin", "the option stdout",
                                       "the option stderr"};
  const char *text = NULL;
  for (int i = 0; i < 3 && !text && is_remote; i++)
    if (o->stdio[i].kind == MF_STDIO_FD)
      text = far_handle_refusal(room, labels[i], o->stdio[i].fd);
  if (text || o->isolation != MF_ISOLATION_THREAD)
    return text;
  return is_remote ? "option 'isolation': a remote process has no clones in threads"
                   : "option 'isolation': a process with a tree has no clones in threads";
}
