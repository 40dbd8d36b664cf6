/* libFuzzer: arbitrary bytes as what a process says to its parent: its greeting, a
 * failure, the answers of a chunk of calls. What must hold: no crash, what is given lies inside
 * of the body and within its bounds, texts can be printed, and what was read and is written
 * again reads the same. The first byte says which it is. */
#undef NDEBUG /* its asserts are the test */
#include "parent/process/greeting.h"
#include "wire/chunk.h"
#include "wire/failure_body.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *body; /* of its own, so that a byte too many is noticed */
static size_t length;

static void inside(const void *p, size_t n) {
  const uint8_t *at = p;
  assert(!at || (at >= body && n <= length && at <= body + length - n));
}

static int is_same(const void *a, size_t na, const void *b, size_t nb) {
  return na == nb && (na == 0 || memcmp(a, b, na) == 0);
}

static void look_at_failure(void) {
  struct failure_body f, again;
  struct buf b;
  if (failure_body_decode(&f, body, length) < 0)
    return;
  inside(f.message, f.nmessage);
  inside(f.traceback, f.ntraceback);
  inside(f.value, f.nvalue);
  assert(f.nmessage <= FAILURE_TEXT_MAX && f.ntraceback <= FAILURE_TEXT_MAX &&
         f.nvalue <= FAILURE_VALUE_MAX);
  buf_init(&b, SIZE_MAX);
  assert(failure_body_encode(&f, &b) == 0);
  assert(failure_body_decode(&again, buf_peek(&b), buf_size(&b)) == 0);
  assert(again.code == f.code && again.second == f.second && again.error == f.error);
  assert(is_same(f.message, f.nmessage, again.message, again.nmessage));
  assert(is_same(f.traceback, f.ntraceback, again.traceback, again.ntraceback));
  assert(is_same(f.value, f.nvalue, again.value, again.nvalue));
  buf_deinit(&b);
}

static void look_at_text(const char text[BUILD_TEXT_MAX]) {
  const char *end = memchr(text, '\0', BUILD_TEXT_MAX);
  assert(end);
  for (; text < end; text++)
    assert(*text >= ' ' && *text < 127);
}

static void look_at_greeting(void) {
  struct frame f = {.type = ANS_HELLO, .length = (uint32_t)length, .body = body};
  struct greeting g;
  if (greeting_read(&f, &g) < 0)
    return;
  look_at_text(g.build.version);
  look_at_text(g.build.lua);
  if (greeting_is_ours(&g))
    assert(g.version == PROTO_VERSION && strcmp(g.build.lua, build_own.lua) == 0);
}

static void look_at_chunk(void) {
  struct chunk_answer a;
  struct reader r;
  uint32_t n = 0, nfailures = 0, told;
  reader_init(&r, body, length);
  while (reader_left(&r) > 0 && chunk_answer_next(&r, &a) == 0) {
    inside(a.body, a.size);
    nfailures += a.kind == CHUNK_FAILURE;
    n++;
  }
  assert(n <= length / 5);
  assert(chunk_answers_count(body, length, UINT32_MAX, &told) == n && told == nfailures);
  assert(chunk_answers_count(body, length, n / 2, &told) == n / 2);
}

/* What a worker of a chunk has written into its record, at any moment of it. */
static void look_at_record(void) {
  static unsigned char memory[CHUNK_RECORD_SIZE] __attribute__((aligned(8))),
      out[RPC_CHUNK_BYTES];
  uint32_t bytes, finished, entered;
  memset(memory, 0, sizeof memory);
  memcpy(memory, body, length < sizeof memory ? length : sizeof memory);
  chunk_record_read((const struct chunk_record *)(void *)memory, 7, out, &bytes,
                    &finished, &entered);
  assert(bytes <= RPC_CHUNK_BYTES && finished <= entered && entered <= 7);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static void (*const looks[])(void) = {look_at_failure, look_at_greeting, look_at_chunk,
                                        look_at_record};
  if (size == 0)
    return 0;
  uint8_t *copy = malloc(size);
  assert(copy);
  memcpy(copy, data, size);
  body = copy + 1;
  length = size - 1;
  looks[data[0] % (sizeof looks / sizeof *looks)]();
  free(copy);
  return 0;
}
