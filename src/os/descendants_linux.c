/* From /proc and by pidfds. Runs in the near end. */
#include "os/descendants.h"

#include "os/fd.h"
#include "os/proc.h"
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

enum { DEPTH_MAX = 64, CHILDREN_MAX = 256 };

struct child_list {
  size_t n;
  pid_t pid[CHILDREN_MAX];
};

void descendants_adopt(int on) {
  prctl(PR_SET_CHILD_SUBREAPER, on ? 1 : 0, 0, 0, 0);
}

/* A child is listed under the thread that forked it (proc(5), needs
 * CONFIG_PROC_CHILDREN). */
static void read_thread(pid_t pid, const char *thread, struct child_list *c) {
  char path[sizeof "/proc//task//children" + 2 * 24];
  int child;
  snprintf(path, sizeof path, "/proc/%ld/task/%.23s/children", (long)pid, thread);
  FILE *f = fopen(path, "re");
  if (!f)
    return;
  while (c->n < CHILDREN_MAX && fscanf(f, "%d", &child) == 1)
    if (child > 1)
      c->pid[c->n++] = child;
  fclose(f);
}

static void read_children(pid_t pid, struct child_list *c) {
  char path[40];
  c->n = 0;
  snprintf(path, sizeof path, "/proc/%ld/task", (long)pid);
  DIR *dir = opendir(path);
  if (!dir)
    return;
  for (const struct dirent *d; (d = readdir(dir));)
    if (d->d_name[0] != '.')
      read_thread(pid, d->d_name, c);
  closedir(dir);
}

static size_t signal_all(const struct child_list *c, pid_t parent, int parent_fd,
                         int signum, int depth);

/* The number was read a moment ago. Whoever has it now is a child of that parent, which is
 * still who it was, or of this process: a descendant, and the pidfd is its. Without one
 * (before Linux 5.3, or no descriptor is free) it has to be of this process: until that
 * reaps it the number is nobody else's. The others are its children when their parents
 * have ended. */
static int is_descendant(pid_t pid, int fd, pid_t parent, int parent_fd) {
  pid_t now = proc_parent(pid);
  return now == getpid() ||
         (fd >= 0 && now == parent && proc_kill(parent_fd, parent, 0) == 0);
}

/* Its children are read before: they are others' when it has ended. */
static size_t signal_one(pid_t pid, pid_t parent, int parent_fd, int signum, int depth) {
  int fd = proc_pidfd(pid);
  size_t n = 0;
  struct child_list *c = depth < DEPTH_MAX ? malloc(sizeof *c) : NULL;
  if (c && is_descendant(pid, fd, parent, parent_fd)) {
    read_children(pid, c);
    if (getpgid(pid) == getpgrp())
      n = proc_kill(fd, pid, signum) == 0;
    n += signal_all(c, pid, fd, signum, depth + 1);
  }
  free(c);
  fd_close(&fd);
  return n;
}

static size_t signal_all(const struct child_list *c, pid_t parent, int parent_fd,
                         int signum, int depth) {
  size_t n = 0;
  for (size_t i = 0; i < c->n; i++)
    n += signal_one(c->pid[i], parent, parent_fd, signum, depth);
  return n;
}

size_t descendants_signal(int signum) {
  struct child_list c;
  read_children(getpid(), &c);
  return signal_all(&c, getpid(), -1, signum, 0);
}
