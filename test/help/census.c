/* The two counts around a test. Runs in the test program; allocates nothing, so that it
 * sees the test's descriptors and not its own. */
#include "help/census.h"

#include "os/fd.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PLACES = 4096 };

struct place {
  int fd;
  dev_t dev;
  ino_t ino;
};

struct places {
  int n, overflow;
  struct place place[PLACES];
};

static struct places before, after;

static void note(int fd, void *data) {
  struct places *places = data;
  struct stat st;
  if (fstat(fd, &st) < 0)
    return;
  if (places->n == PLACES)
    places->overflow = 1;
  else
    places->place[places->n++] = (struct place){fd, st.st_dev, st.st_ino};
}

static void count(struct places *places) {
  places->n = places->overflow = 0;
  fd_each(0, note, places);
}

static const struct place *find(const struct places *places, int fd) {
  for (int i = 0; i < places->n; i++)
    if (places->place[i].fd == fd)
      return &places->place[i];
  return NULL;
}

/* Where the descriptor leads, for the reader of the message. */
static void describe(int fd, const char *what) {
  char path[64], target[256] = "?";
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(path, target, sizeof target - 1);
  if (n > 0)
    target[n] = '\0';
  fprintf(stderr, "census: descriptor %d %s (now %s)\n", fd, what, target);
}

static int compare(void) {
  int differences = 0;
  for (int i = 0; i < before.n; i++) {
    const struct place *old = &before.place[i], *now = find(&after, old->fd);
    if (now && now->dev == old->dev && now->ino == old->ino)
      continue;
    describe(old->fd, now ? "names another file" : "is gone");
    differences++;
  }
  for (int i = 0; i < after.n; i++) {
    if (find(&before, after.place[i].fd))
      continue;
    describe(after.place[i].fd, "was left open");
    differences++;
  }
  return differences;
}

/* Running or dead, a child that can still be waited for is one too many. */
static int has_children(void) {
  siginfo_t info;
  return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 || errno != ECHILD;
}

/* The children's numbers as the kernel lists them; without that list they stay. */
static int end_children(void) {
  int left = 0, pid;
  FILE *list = fopen("/proc/thread-self/children", "re");
  while (list && fscanf(list, "%d", &pid) == 1) {
    fprintf(stderr, "census: child %d was left\n", pid);
    kill(pid, SIGKILL);
    left++;
  }
  if (list)
    fclose(list);
  while (waitpid(-1, NULL, list ? 0 : WNOHANG) > 0)
    ;
  return left > 0 ? left : 1;
}

int census_begin(void) {
  count(&before);
  if (before.overflow || has_children()) {
    fprintf(stderr, "census: can't begin\n");
    return -1;
  }
  alarm(CENSUS_DEADLINE_S);
  return 0;
}

int census_end(void) {
  alarm(0);
  int differences = has_children() ? end_children() : 0;
  count(&after);
  return differences + compare() + after.overflow;
}

int census_setup(void **state) {
  return census_begin();
}

int census_teardown(void **state) {
  return census_end() == 0 ? 0 : -1;
}
