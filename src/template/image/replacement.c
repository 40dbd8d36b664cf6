#include "template/image/replacement.h"

#include "os/fd.h"
#include "os/proc.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char mark[] = ".moonfork-";
enum { NRANDOM = 6, MARK_SIZE = sizeof mark - 1, TRIES = 100, FILE_MODE = 0600 };

/* ---- names ---- */

/* Of NAME as much as there is room for. */
static size_t stem_size(const struct replacement *r) {
  size_t n = strlen(r->name), max = NAME_MAX - MARK_SIZE - NRANDOM;
  return n < max ? n : max;
}

static void make_name(struct replacement *r) {
  static const char letters[] =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  unsigned char random[NRANDOM];
  size_t n = stem_size(r);
  proc_random(random, sizeof random);
  memcpy(r->temporary, r->name, n);
  memcpy(r->temporary + n, mark, MARK_SIZE);
  n += MARK_SIZE;
  for (int i = 0; i < NRANDOM; i++)
    r->temporary[n++] = letters[random[i] % (sizeof letters - 1)];
  r->temporary[n] = '\0';
}

static int is_temporary(const struct replacement *r, const char *name) {
  size_t n = stem_size(r);
  return strlen(name) == n + MARK_SIZE + NRANDOM && memcmp(name, r->name, n) == 0 &&
         memcmp(name + n, mark, MARK_SIZE) == 0;
}

static int split(struct replacement *r, const char *path) {
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  size_t n = slash ? (size_t)(slash - path) + 1 : 0;
  char folder[PATH_MAX] = ".";
  if (n >= sizeof folder || strlen(name) > NAME_MAX)
    return -ENAMETOOLONG;
  if (!*name)
    return *path ? -EISDIR : -ENOENT;
  if (n > 0) {
    memcpy(folder, path, n);
    folder[n] = '\0';
  }
  memcpy(r->name, name, strlen(name) + 1);
  r->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (r->folder < 0 && errno == EACCES) /* one may write there, but not list it */
    r->folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
  return r->folder < 0 ? -errno : 0;
}

/* ---- what others have left ---- */

static void remove_if_stale(const struct replacement *r, const char *name) {
  struct stat st, now;
  int fd = openat(r->folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0)
    return;
  if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
      (st.st_mode & 07777) == FILE_MODE && flock(fd, LOCK_EX | LOCK_NB) == 0 &&
      fstatat(r->folder, name, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
      now.st_ino == st.st_ino && now.st_dev == st.st_dev)
    unlinkat(r->folder, name, 0);
  close(fd);
}

static void remove_stale(const struct replacement *r) {
  int fd = openat(r->folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *all = fd >= 0 ? fdopendir(fd) : NULL;
  const struct dirent *e;
  if (!all) {
    if (fd >= 0)
      close(fd);
    return; /* best effort */
  }
  while ((e = readdir(all)))
    if (is_temporary(r, e->d_name))
      remove_if_stale(r, e->d_name);
  closedir(all);
}

/* ---- the new one ---- */

static int lock(const struct replacement *r) {
  while (flock(r->fd, LOCK_EX) < 0)
    if (errno != EINTR)
      return -errno;
  return 0;
}

/* Between its creation and the lock somebody may have taken it for a stale one. */
static int open_named(struct replacement *r) {
  for (int i = 0; i < TRIES; i++) {
    struct stat st;
    make_name(r);
    r->fd =
        openat(r->folder, r->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE);
    if (r->fd < 0 && errno != EEXIST)
      return -errno;
    if (r->fd < 0)
      continue;
    (void)lock(r); /* a file system without locks: nobody takes it for stale either */
    if (fstat(r->fd, &st) == 0 && st.st_nlink > 0) {
      r->is_named = 1;
      return 0;
    }
    fd_close(&r->fd);
  }
  return -EEXIST;
}

static int open_nameless(struct replacement *r) {
#ifdef O_TMPFILE
  if (access("/proc/self/fd", X_OK) < 0) /* which gives it a name later */
    return -1;
  r->fd = openat(r->folder, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, FILE_MODE);
  return r->fd < 0 ? -1 : 0;
#else
  (void)r;
  return -1;
#endif
}

int replacement_begin(struct replacement *r, const char *path, const char **ret_why) {
  struct stat st;
  *r = (struct replacement){.fd = -1, .folder = -1};
  int n = split(r, path);
  if (n < 0)
    return n;
  if (fstatat(r->folder, r->name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
    if (S_ISDIR(st.st_mode))
      return -EISDIR;
    if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode)) {
      *ret_why = "it is there, is no file, and is not replaced by one";
      return -EEXIST;
    }
  }
  remove_stale(r);
  return open_nameless(r) == 0 ? 0 : open_named(r);
}

/* A name for it: its own where that is free, else one that a rename makes its own. */
static int give_name(struct replacement *r) {
  char self[40];
  snprintf(self, sizeof self, "/proc/self/fd/%d", r->fd);
  if (linkat(AT_FDCWD, self, r->folder, r->name, AT_SYMLINK_FOLLOW) == 0)
    return 1;
  for (int i = 0; i < TRIES && errno == EEXIST; i++) {
    make_name(r);
    if (linkat(AT_FDCWD, self, r->folder, r->temporary, AT_SYMLINK_FOLLOW) == 0) {
      r->is_named = 1;
      return 0;
    }
  }
  return -errno;
}

int replacement_commit(struct replacement *r) {
  int named = 0;
  if (fsync(r->fd) < 0)
    return -errno;
  if (!r->is_named) {
    (void)lock(r); /* before others can see it */
    named = give_name(r);
  }
  if (named < 0)
    return named;
  if (!named && renameat(r->folder, r->temporary, r->folder, r->name) < 0)
    return -errno;
  r->is_named = 0;
  (void)fsync(r->folder); /* so that the name is on the disk, too: not every file system
                             has it */
  return 0;
}

void replacement_end(struct replacement *r) {
  if (r->is_named)
    unlinkat(r->folder, r->temporary, 0);
  fd_close(&r->fd);
  fd_close(&r->folder);
}
