/* libFuzzer: arbitrary bytes as the answer of a NATS server. What must hold: no crash, no
 * byte outside of the text is read, every value that is given lies inside of it, and
 * every list ends. */
#undef NDEBUG /* its asserts are the test */
#include "nats/json.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *from, *to;

static void look(struct json v, int depth) {
  static const char *const keys[] = {"error", "err_code", "streams", "state", "a", ""};
  struct json inner, item = {NULL, 0}, key = {NULL, 0}, value = {NULL, 0};
  char room[32];
  int64_t n;
  assert(v.at >= from && v.length > 0 && v.length <= (size_t)(to - v.at));
  json_integer(v, &n);
  if (json_text(v, room, sizeof room) == 0)
    assert(memchr(room, '\0', sizeof room) != NULL);
  if (depth == 3)
    return;
  for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
    if (json_get(v, keys[i], &inner) == 0)
      look(inner, depth + 1);
  for (size_t items = 0; json_next(v, &item) == 0; items++) {
    assert(items <= v.length);
    look(item, depth + 1);
  }
  for (size_t members = 0; json_next_member(v, &key, &value) == 0; members++) {
    assert(members <= v.length);
    look(key, 3);
    look(value, depth + 1);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *copy = malloc(size + 1); /* of its own, so that a byte too many is noticed */
  struct json v;
  if (copy == NULL)
    return 0;
  if (size > 0)
    memcpy(copy + 1, data, size);
  from = copy + 1;
  to = copy + 1 + size;
  if (json_read(from, size, &v) == 0)
    look(v, 0);
  free(copy);
  return 0;
}
