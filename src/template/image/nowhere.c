/* Images, where they are not: systems other than Linux. See image.h. */
#include "template/image/image.h"

#include <errno.h>
#include <stdio.h>

static const char text[] = "images are there on Linux alone";

const char *image_obstacle(lua_State *L, struct heap *heap) {
  (void)L, (void)heap;
  return text;
}

int image_save(lua_State *L, struct heap *heap, const struct collector *c,
               lua_State *program, int flags, const char *path,
               char why[IMAGE_TEXT_MAX]) {
  (void)L, (void)heap, (void)c, (void)program, (void)flags, (void)path;
  snprintf(why, IMAGE_TEXT_MAX, "%s", text);
  return -ENOTSUP;
}

int image_load(const char *path, int flags, struct image_loaded *ret,
               char why[IMAGE_TEXT_MAX]) {
  (void)path, (void)flags, (void)ret;
  snprintf(why, IMAGE_TEXT_MAX, "%s", text);
  return -ENOTSUP;
}

void image_check_fresh(int argc, char **argv) {
  (void)argc, (void)argv;
}
