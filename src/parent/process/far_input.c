#include "parent/process/far_input.h"

#include "parent/common/fork_watch.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Never freed: a copy walks over them without the lock, which others may hold. */
struct far_input {
  struct far_input *next;
  _Atomic int fd; /* 0: nobody's */
  dev_t dev;
  ino_t ino;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic(struct far_input *) inputs;

/* A thread may have descriptors of its own, where the number is another's. */
void far_input_forked(struct far_input *input) {
  struct stat st;
  int fd = input ? atomic_exchange(&input->fd, 0) : 0;
  if (fd > 0 && fstat(fd, &st) == 0 && st.st_dev == input->dev && st.st_ino == input->ino)
    close(fd);
}

static void in_forked_copy(void) {
  pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
  for (struct far_input *i = inputs; i; i = i->next)
    far_input_forked(i);
  lock = fresh;
}

static struct far_input *find_unused(void) {
  for (struct far_input *i = inputs; i; i = i->next)
    if (atomic_load(&i->fd) == 0)
      return i;
  struct far_input *made = calloc(1, sizeof *made);
  if (made) {
    made->next = inputs;
    inputs = made;
  }
  return made;
}

struct far_input *far_input_keep(int fd) {
  static struct fork_hook hook = {.in_copy = in_forked_copy};
  struct stat st;
  if (fstat(fd, &st) < 0)
    return NULL;
  pthread_mutex_lock(&lock);
  fork_watch(&hook);
  struct far_input *input = find_unused();
  if (input) {
    input->dev = st.st_dev;
    input->ino = st.st_ino;
    atomic_store(&input->fd, fd);
  }
  pthread_mutex_unlock(&lock);
  return input;
}

void far_input_forget(struct far_input *input) {
  if (input)
    atomic_store(&input->fd, 0);
}
