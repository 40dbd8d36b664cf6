/* The sixteen bytes of a header: exact layout, and every way to be refused. Then the
 * transcripts of test/data: bytes in hex beside what they mean in words, so that a
 * change of the protocol shows as a change of these files. */
#include "unit/unit.h"

#include "wire/frame.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

static void test_header_has_this_layout(void **state) {
  static const unsigned char expected[] = {0x04, 0x03, 0x02, 0x00, 6, 2, 1, 0,
                                           8,    7,    6,    5,    4, 3, 2, 1};
  struct frame f = {.length = 0x020304,
                    .type = 6,
                    .nfds = 2,
                    .flags = FRAME_MORE,
                    .id = UINT64_C(0x0102030405060708)};
  unsigned char out[FRAME_HEADER_SIZE];
  frame_encode(out, &f);
  assert_memory_equal(out, expected, sizeof expected);
  struct frame back = {0};
  assert_int_equal(frame_decode(&back, out, CMD_SETUP, CMD_LAST), 0);
  assert_int_equal(back.length, f.length);
  assert_int_equal(back.type, f.type);
  assert_int_equal(back.nfds, f.nfds);
  assert_int_equal(back.flags, f.flags);
  assert_true(back.id == f.id);
}

static void test_bad_headers_are_refused(void **state) {
  static const struct {
    const char *name;
    unsigned char header[FRAME_HEADER_SIZE];
    int expected;
  } rows[] = {
      {"empty body", {0, 0, 0, 0, 2, 0, 0, 0}, 0},
      {"longest body", {0, 0, 4, 0, 2, 0, 0, 0}, 0},
      {"one byte more", {1, 0, 4, 0, 2, 0, 0, 0}, -EPROTO},
      {"2^31 - 1", {0xff, 0xff, 0xff, 0x7f, 2, 0, 0, 0}, -EPROTO},
      {"2^32 - 1", {0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0}, -EPROTO},
      {"most descriptors", {0, 0, 0, 0, 5, 16, 0, 0}, 0},
      {"one more", {0, 0, 0, 0, 5, 17, 0, 0}, -EPROTO},
      {"type 0", {0, 0, 0, 0, 0, 0, 0, 0}, -EPROTO},
      {"last type", {0, 0, 0, 0, CMD_LAST, 0, 0, 0}, 0},
      {"type past the last", {0, 0, 0, 0, CMD_LAST + 1, 0, 0, 0}, -EPROTO},
      {"an answer to a process", {0, 0, 0, 0, ANS_HELLO, 0, 0, 0}, -EPROTO},
      {"more follows", {0, 0, 0, 0, 2, 0, 1, 0}, 0},
      {"unknown flag", {0, 0, 0, 0, 2, 0, 2, 0}, -EPROTO},
      {"unknown flag, high", {0, 0, 0, 0, 2, 0, 0, 0x80}, -EPROTO},
      {"greatest id",
       {0, 0, 0, 0, 2, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255},
       0},
  };
  for (size_t i = 0; i < COUNT(rows); i++) {
    struct frame f;
    int r = frame_decode(&f, rows[i].header, CMD_SETUP, CMD_LAST);
    if (r != rows[i].expected)
      fail_msg("%s: %d", rows[i].name, r);
  }
}

/* ---- transcripts ----
 *
 * A block is "frame: type=N nfds=N flags=N id=N length=N", any number of lines of hex,
 * and an empty line. Text after "#" is for people. */

static void parse_words(struct frame *f, const char *line) {
  unsigned type, nfds, flags, length;
  unsigned long long id;
  int n = sscanf(line, "frame: type=%u nfds=%u flags=%u id=%llu length=%u", &type, &nfds,
                 &flags, &id, &length);
  assert_int_equal(n, 5);
  *f = (struct frame){.type = (uint8_t)type,
                      .nfds = (uint8_t)nfds,
                      .flags = (uint16_t)flags,
                      .id = id,
                      .length = length};
}

static size_t parse_hex(unsigned char *out, size_t size, const char *line) {
  size_t n = 0;
  for (; *line && *line != '#' && *line != '\n';
       line += isspace((unsigned char)*line) ? 1 : 2) {
    if (isspace((unsigned char)*line))
      continue;
    char digits[3] = {line[0], line[1], 0};
    char *end;
    assert_true(n < size);
    out[n++] = (unsigned char)strtoul(digits, &end, 16);
    assert_true(*end == '\0' && end == digits + 2);
  }
  return n;
}

static void check_block(const struct frame *words, const unsigned char *bytes, size_t n) {
  unsigned char header[FRAME_HEADER_SIZE];
  struct frame f;
  assert_true(n >= FRAME_HEADER_SIZE);
  frame_encode(header, words);
  assert_memory_equal(bytes, header, sizeof header);
  assert_int_equal(frame_decode(&f, bytes, CMD_SETUP, ANS_LAST), 0);
  assert_int_equal(f.type, words->type);
  assert_int_equal(f.nfds, words->nfds);
  assert_int_equal(f.flags, words->flags);
  assert_true(f.id == words->id);
  assert_int_equal(f.length, n - FRAME_HEADER_SIZE);
}

static int check_transcript(const char *name) {
  char path[512], line[512];
  unsigned char bytes[4096];
  const char *folder = getenv("MOONFORK_TEST_DATA");
  snprintf(path, sizeof path, "%s/%s", folder ? folder : "test/data", name);
  FILE *file = fopen(path, "re");
  if (!file)
    fail_msg("can't open %s", path);
  struct frame words = {0};
  int blocks = 0, open_block = 0;
  size_t n = 0;
  while (fgets(line, sizeof line, file)) {
    if (line[0] == '#')
      continue;
    if (strncmp(line, "frame:", 6) == 0) {
      parse_words(&words, line);
      open_block = 1;
      n = 0;
    } else if (line[0] != '\n') {
      assert_true(open_block);
      n += parse_hex(bytes + n, sizeof bytes - n, line);
    } else if (open_block) {
      check_block(&words, bytes, n);
      open_block = 0;
      blocks++;
    }
  }
  fclose(file);
  assert_false(open_block); /* the last block ends with an empty line too */
  return blocks;
}

static void test_transcript_of_commands(void **state) {
  assert_int_equal(check_transcript("commands.frames"), 21);
}

static void test_transcript_of_answers(void **state) {
  assert_int_equal(check_transcript("answers.frames"), 6);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_header_has_this_layout),
      census_test(test_bad_headers_are_refused),
      census_test(test_transcript_of_commands),
      census_test(test_transcript_of_answers),
  };
  return cmocka_run_group_tests_name("frame", tests, NULL, NULL);
}
