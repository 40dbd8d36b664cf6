/* A watch over a folder and everything below it (inotify(7)): a descriptor that can be
 * read when a file was written, made, renamed or removed. */
#include "serve/module.h"

#include <dirent.h>
#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH_MAX = 64 };

#define EVENTS                                                                           \
  (IN_CLOSE_WRITE | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB |    \
   IN_ONLYDIR)

/* Hidden folders (version control, editors) are left out. 0, or errno of the first that
 * fails. */
static int add_tree(int fd, const char *path, int depth) {
  if (inotify_add_watch(fd, path, EVENTS) < 0)
    return errno == ENOENT && depth > 0 ? 0 : errno;
  if (depth >= DEPTH_MAX)
    return 0;
  DIR *folder = opendir(path);
  if (!folder)
    return depth > 0 ? 0 : errno;
  int error = 0;
  struct dirent *entry;
  while (!error && (entry = readdir(folder))) {
    char below[PATH_MAX];
    struct stat status;
    if (entry->d_name[0] == '.' ||
        snprintf(below, sizeof below, "%s/%s", path, entry->d_name) >= (int)sizeof below)
      continue;
    if (lstat(below, &status) == 0 && S_ISDIR(status.st_mode))
      error = add_tree(fd, below, depth + 1);
  }
  closedir(folder);
  return error;
}

/* watch_tree(path) -> a descriptor, close-on-exec and non-blocking; or nil, message,
 * errno */
static int l_watch_tree(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (fd < 0)
    return serve_fail(L, errno, path);
  int error = add_tree(fd, path, 0);
  if (error) {
    close(fd);
    return serve_fail(L, error, path);
  }
  lua_pushinteger(L, fd);
  return 1;
}

/* tree_changed(fd) -> the names of files that changed since the last call, without
 * folders that came (whose files are not watched yet: who watches begins again) */
static int l_tree_changed(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  char room[16384] __attribute__((aligned(__alignof__(struct inotify_event))));
  lua_newtable(L);
  lua_Integer n = 0;
  int folders = 0;
  ssize_t size;
  while ((size = read(fd, room, sizeof room)) > 0) {
    for (const char *at = room; at < room + size;) {
      const struct inotify_event *event = (const void *)at;
      at += sizeof *event + event->len;
      folders |= (event->mask & (IN_ISDIR | IN_Q_OVERFLOW | IN_IGNORED)) != 0;
      if (event->len > 0 && !(event->mask & IN_ISDIR)) {
        lua_pushstring(L, event->name);
        lua_seti(L, -2, ++n);
      }
    }
  }
  lua_pushboolean(L, folders);
  return 2;
}

/* folder_id(path) -> a text that is another one for another folder; nil where none is */
static int l_folder_id(lua_State *L) {
  struct stat status;
  if (stat(luaL_checkstring(L, 1), &status) < 0 || !S_ISDIR(status.st_mode))
    return 0;
  lua_pushfstring(L, "%I:%I", (LUAI_UACINT)status.st_dev, (LUAI_UACINT)status.st_ino);
  return 1;
}

void tree_open(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"watch_tree", l_watch_tree},
      {"tree_changed", l_tree_changed},
      {"folder_id", l_folder_id},
      {NULL, NULL},
  };
  luaL_setfuncs(L, functions, 0);
}
