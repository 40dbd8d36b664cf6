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

/* Found by now; a parent before its children. */
static struct found {
  pid_t pid;
  int fd;
} * found;
static size_t nfound;

/* Takes fd, which may be -1; gives it, or the one by which it was known before. */
static int remember(pid_t pid, int fd) {
  for (size_t i = 0; i < nfound; i++)
    if (found[i].pid == pid && found[i].fd >= 0 && proc_kill(found[i].fd, pid, 0) == 0) {
      fd_close(&fd);
      return found[i].fd;
    }
  struct found *more = realloc(found, (nfound + 1) * sizeof *found);
  if (!more) {
    fd_close(&fd);
    return -1;
  }
  found = more;
  found[nfound++] = (struct found){pid, fd};
  return fd;
}

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

static void find_all(const struct child_list *c, pid_t parent, int parent_fd, int depth,
                     int (*keeps)(pid_t pid));

static void find_one(pid_t pid, pid_t parent, int parent_fd, int depth,
                     int (*keeps)(pid_t pid)) {
  int fd = proc_pidfd(pid);
  struct child_list *c = depth < DEPTH_MAX ? malloc(sizeof *c) : NULL;
  if (c && is_descendant(pid, fd, parent, parent_fd) && !keeps(pid)) {
    int is_ours = getpgid(pid) == getpgrp(), known = fd;
    read_children(pid, c);
    if (is_ours) {
      known = remember(pid, fd);
      fd = -1;
    }
    find_all(c, pid, known, depth + 1, keeps);
  }
  free(c);
  fd_close(&fd);
}

static void find_all(const struct child_list *c, pid_t parent, int parent_fd, int depth,
                     int (*keeps)(pid_t pid)) {
  for (size_t i = 0; i < c->n; i++)
    find_one(c->pid[i], parent, parent_fd, depth, keeps);
}

/* All are found before one is signalled: its children are others' when it has ended. A
 * number without a pidfd is good for this time. */
size_t descendants_signal(int signum, int (*keeps)(pid_t pid)) {
  struct child_list c;
  size_t n = 0, nkept = 0;
  read_children(getpid(), &c);
  find_all(&c, getpid(), -1, 0, keeps);
  for (size_t i = 0; i < nfound; i++) {
    int is_there = proc_kill(found[i].fd, found[i].pid, signum) == 0;
    n += (size_t)is_there;
    if (is_there && found[i].fd >= 0)
      found[nkept++] = found[i];
    else
      fd_close(&found[i].fd);
  }
  nfound = nkept;
  return n;
}
