/* nats/error_headers.c: an error goes out as headers and comes back as it was. */
#include "nats/error_headers.h"

#include "unit.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Messages here are lists of headers. */
static const struct engine_header *headers;
static size_t nheaders;

const char *engine_header_of(const struct engine_message *m, const char *name) {
  (void)m;
  for (size_t i = 0; i < nheaders; i++)
    if (strcmp(headers[i].name, name) == 0)
      return headers[i].value;
  return NULL;
}

static int read_back(struct error_read *r, const struct error_headers *h) {
  struct engine_message m = {.subject = "a"};
  headers = h->list;
  nheaders = h->n;
  return error_read_init(r, &m);
}

static void test_all_fields(void **state) {
  const mf_exit gone = {.known = 1, .signal = 11, .core = 1};
  const mf_error e = {.code = MF_ECLONE_DIED,
                      .message = " 100 %\r\nof it \xff",
                      .traceback = "stack traceback:\n\tx",
                      .started = MF_STARTED_NO,
                      .exit = &gone,
                      .value = "\x91\0\xa1x",
                      .value_length = 4};
  struct error_headers h;
  struct error_read r;
  (void)state;
  assert_int_equal(error_headers_init(&h, &e), 0);
  for (size_t i = 0; i < h.n; i++)
    for (const char *c = h.list[i].value; *c; c++)
      assert_true(*c >= ' ' && *c < 0x7f);
  assert_int_equal(read_back(&r, &h), 1);
  assert_int_equal(r.error.code, e.code);
  assert_string_equal(r.error.message, e.message);
  assert_string_equal(r.error.traceback, e.traceback);
  assert_int_equal(r.error.started, MF_STARTED_NO);
  assert_int_equal(r.error.value_length, 4);
  assert_memory_equal(r.error.value, e.value, 4);
  assert_non_null(r.error.exit);
  assert_int_equal(r.error.exit->signal, 11);
  assert_true(r.error.exit->core);
  error_read_deinit(&r);
  error_headers_deinit(&h);
}

static void test_few_fields(void **state) {
  const mf_exit gone = {.known = 1, .code = 3}, nobody = {.known = 0};
  mf_error e = {.code = MF_EREMOTE, .started = MF_STARTED_UNKNOWN, .exit = &nobody};
  struct error_headers h;
  struct error_read r;
  (void)state;
  assert_int_equal(error_headers_init(&h, &e), 0);
  assert_int_equal(read_back(&r, &h), 1);
  assert_int_equal(r.error.code, MF_EREMOTE);
  assert_string_equal(r.error.message, "");
  assert_null(r.error.traceback);
  assert_null(r.error.value);
  assert_null(r.error.exit);
  assert_int_equal(r.error.started, MF_STARTED_UNKNOWN);
  error_read_deinit(&r);
  error_headers_deinit(&h);
  e.exit = &gone;
  assert_int_equal(error_headers_init(&h, &e), 0);
  assert_int_equal(read_back(&r, &h), 1);
  assert_int_equal(r.error.exit->code, 3);
  error_read_deinit(&r);
  error_headers_deinit(&h);
}

static void test_too_long(void **state) {
  size_t n = ERROR_VALUE_MAX + 1;
  char *text = malloc(n + 1);
  struct error_headers h;
  struct error_read r;
  (void)state;
  assert_non_null(text);
  memset(text, '\n', n);
  text[n] = '\0';
  const mf_error e = {
      .code = MF_EREMOTE, .message = text, .value = text, .value_length = n};
  assert_int_equal(error_headers_init(&h, &e), 0);
  assert_int_equal(read_back(&r, &h), 1);
  assert_int_equal(strlen(r.error.message), ERROR_TEXT_MAX);
  assert_null(r.error.value);
  error_read_deinit(&r);
  error_headers_deinit(&h);
  free(text);
}

static void test_headers_of_others(void **state) {
  const struct engine_header strange[] = {{"Mf-Error", "NO_SUCH_CODE"},
                                          {"Mf-Message", "%4"},
                                          {"Mf-Traceback", "%zz%"},
                                          {"Mf-Exit", "signal"}};
  struct engine_message m = {.subject = "a"};
  struct error_read r;
  (void)state;
  headers = strange;
  nheaders = 0;
  assert_int_equal(error_read_init(&r, &m), 0);
  nheaders = 4;
  assert_int_equal(error_read_init(&r, &m), 1);
  assert_int_equal(r.error.code, MF_EREMOTE);
  assert_string_equal(r.error.message, "%4");
  assert_string_equal(r.error.traceback, "%zz%");
  assert_null(r.error.exit);
  error_read_deinit(&r);
}

/* Numbers beyond those that a process can end with are none. */
static void test_exits_of_others(void **state) {
  static const struct {
    const char *text;
    int code, signal; /* both -1: no exit */
  } rows[] = {
      {"code 0", 0, 0},      {"code 255", 255, 0},   {"code 256", -1, -1},
      {"code 2550", -1, -1}, {"code -1", -1, -1},    {"code ", -1, -1},
      {"code 3x", -1, -1},   {"signal 1", 0, 1},     {"signal 127 core", 0, 127},
      {"signal 0", -1, -1},  {"signal 128", -1, -1}, {"signal 4294967305", -1, -1},
      {"sigma 9", -1, -1}};
  (void)state;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const struct engine_header exit[] = {{"Mf-Error", "REMOTE"},
                                         {"Mf-Exit", rows[i].text}};
    struct engine_message m = {.subject = "a"};
    struct error_read r;
    headers = exit;
    nheaders = 2;
    assert_int_equal(error_read_init(&r, &m), 1);
    if ((r.error.exit != NULL) != (rows[i].code >= 0))
      fail_msg("%s", rows[i].text);
    if (r.error.exit) {
      assert_int_equal(r.error.exit->code, rows[i].code);
      assert_int_equal(r.error.exit->signal, rows[i].signal);
      assert_int_equal(r.error.exit->core, strstr(rows[i].text, "core") != NULL);
    }
    error_read_deinit(&r);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_fields),      cmocka_unit_test(test_few_fields),
      cmocka_unit_test(test_too_long),        cmocka_unit_test(test_headers_of_others),
      cmocka_unit_test(test_exits_of_others),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
