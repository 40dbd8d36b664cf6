/* From /proc and by pidfds. Runs in the near end. */
#include "os/descendants.h"

#include "os/fd.h"
#include "os/proc.h"
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { DEPTH_MAX = 64, CHILDREN_MAX = 256 };

#define NOT_FOUND SIZE_MAX

struct child_list {
  size_t n;
  pid_t pid[CHILDREN_MAX];
};

static unsigned nmissed;             /* in this search: it does not know all */
static unsigned long long looked_at; /* when the first began that knows all; or 0 */

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
  nmissed += c->n == CHILDREN_MAX;
}

/* Found by now; a parent before its children. */
static struct found {
  pid_t pid;
  int fd;
  int was_seen; /* in this search */
  int is_spared;
} * found;
static size_t nfound;

static size_t find_known(pid_t pid) {
  for (size_t i = 0; i < nfound; i++)
    if (found[i].pid == pid && found[i].fd >= 0 && proc_kill(found[i].fd, pid, 0) == 0)
      return i;
  return NOT_FOUND;
}

/* Takes *fd, which may be -1, where it is not known. Its place, or NOT_FOUND: no memory. */
static size_t remember(pid_t pid, int *fd) {
  size_t at = find_known(pid);
  if (at == NOT_FOUND) {
    struct found *more = realloc(found, (nfound + 1) * sizeof *found);
    if (!more)
      return NOT_FOUND;
    found = more;
    at = nfound++;
    found[at] = (struct found){.pid = pid, .fd = *fd};
    *fd = -1;
  }
  found[at].was_seen = 1;
  return at;
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

static unsigned long long ticks_now(void) {
  struct timespec t;
  unsigned long long hz = (unsigned long long)sysconf(_SC_CLK_TCK);
  clock_gettime(CLOCK_BOOTTIME, &t);
  return (unsigned long long)t.tv_sec * hz +
         (unsigned long long)t.tv_nsec / (1000000000 / hz);
}

/* One that was there when all were found, and was not among them, belonged to one that is
 * left alone. That has ended, and one of those that were found adopts: another subreaper,
 * or process 1 of a pid namespace. */
static int is_left_over(pid_t pid) {
  return looked_at && proc_parent(pid) != getpid() && find_known(pid) == NOT_FOUND &&
         proc_started(pid) <= looked_at;
}

/* Whether it is process 1 of another pid namespace: all in there end with it. */
static int leads_namespace(pid_t pid) {
  char path[40], line[256];
  int leads = 0;
  snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
  FILE *f = fopen(path, "re");
  if (!f)
    return 0;
  while (fgets(line, sizeof line, f))
    if (strncmp(line, "NSpid:", 6) == 0) { /* outermost first */
      const char *last = strrchr(line, '\t');
      leads = last > line + 6 && atol(last) == 1;
    }
  fclose(f);
  return leads;
}

/* Whether one below is left alone. */
static int find_all(const struct child_list *c, pid_t parent, int parent_fd, int depth,
                    int (*keeps)(pid_t pid));

static int find_below(pid_t pid, int fd, struct child_list *c, int depth,
                      int (*keeps)(pid_t pid)) {
  read_children(pid, c);
  return find_all(c, pid, fd, depth + 1, keeps);
}

/* Whether it, or one below, is left alone. */
static int find_one(pid_t pid, pid_t parent, int parent_fd, int depth,
                    int (*keeps)(pid_t pid)) {
  int fd = proc_pidfd(pid), is_kept = 0;
  struct child_list *c = depth < DEPTH_MAX ? malloc(sizeof *c) : NULL;
  nmissed += fd < 0 || !c;
  if (c && is_descendant(pid, fd, parent, parent_fd)) {
    is_kept = keeps(pid) || is_left_over(pid);
    size_t at = !is_kept && getpgid(pid) == getpgrp() ? remember(pid, &fd) : NOT_FOUND;
    if (!is_kept)
      is_kept = find_below(pid, at == NOT_FOUND ? fd : found[at].fd, c, depth, keeps);
    if (at != NOT_FOUND)
      found[at].is_spared = is_kept && leads_namespace(pid);
  }
  free(c);
  fd_close(&fd);
  return is_kept;
}

static int find_all(const struct child_list *c, pid_t parent, int parent_fd, int depth,
                    int (*keeps)(pid_t pid)) {
  int is_one_kept = 0;
  for (size_t i = 0; i < c->n; i++)
    is_one_kept |= find_one(c->pid[i], parent, parent_fd, depth, keeps);
  return is_one_kept;
}

/* Those that were found before, and are another process's children by now. */
static void find_elsewhere(struct child_list *c, int (*keeps)(pid_t pid)) {
  for (size_t i = 0; i < nfound; i++) {
    struct found f = found[i];
    if (f.was_seen || proc_kill(f.fd, f.pid, 0) < 0)
      continue;
    int is_kept = find_below(f.pid, f.fd, c, 0, keeps);
    found[i].is_spared = is_kept && leads_namespace(f.pid);
  }
}

/* All are found before one is signalled: its children are others' when it has ended. A
 * number without a pidfd is good for this time. */
size_t descendants_signal(int signum, int (*keeps)(pid_t pid)) {
  struct child_list c;
  size_t n = 0, nkept = 0;
  unsigned long long begun_at = ticks_now();
  nmissed = 0;
  find_below(getpid(), -1, &c, -1, keeps);
  find_elsewhere(&c, keeps);
  if (!looked_at && !nmissed)
    looked_at = begun_at;
  for (size_t i = 0; i < nfound; i++) {
    struct found *f = &found[i];
    int is_there = proc_kill(f->fd, f->pid, f->is_spared ? 0 : signum) == 0;
    n += (size_t)is_there;
    f->was_seen = 0;
    if (is_there && f->fd >= 0)
      found[nkept++] = *f;
    else
      fd_close(&f->fd);
  }
  nfound = nkept;
  return n;
}
