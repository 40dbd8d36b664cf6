/* The two texts that name a build. Pure. */
#include "wire/build.h"

#include "base/origin.h"
#include <errno.h>
#include <string.h>

#if !defined(MOONFORK_VERSION) || !defined(MOONFORK_LUA)
#error "meson.build defines both"
#endif

const struct build build_own = {MOONFORK_VERSION, MOONFORK_LUA};

int build_put(struct buf *b) {
  int r = buf_put_str(b, build_own.version, strlen(build_own.version));
  return r < 0 ? r : buf_put_str(b, build_own.lua, strlen(build_own.lua));
}

static int read_text(struct reader *r, char *ret) {
  size_t n;
  const unsigned char *text = (const unsigned char *)reader_str(r, &n);
  if (!text)
    return ORIGINAL(-EPROTO);
  if (n >= BUILD_TEXT_MAX)
    n = BUILD_TEXT_MAX - 1;
  for (size_t i = 0; i < n; i++)
    ret[i] = text[i] >= ' ' && text[i] < 127 ? (char)text[i] : '?';
  ret[n] = 0;
  return 0;
}

int build_read(struct reader *r, struct build *ret) {
  return read_text(r, ret->version) < 0 || read_text(r, ret->lua) < 0 ? -EPROTO : 0;
}

int build_is_own(const struct build *b) {
  return strcmp(b->version, build_own.version) == 0 && strcmp(b->lua, build_own.lua) == 0;
}
