/* libFuzzer: arbitrary text in what else comes by way of a NATS server: the headers of an
 * error, the subjects of stored jobs and of deliveries; and the URLs that a user gives.
 * What must hold: no crash, nothing outside of a text is read, every number is
 * within its bounds, and what was read and is written again reads the same. The
 * input: texts with NULs between them. */
#undef NDEBUG /* its asserts are the test */
#include "nats/envelope.h"
#include "nats/error_headers.h"
#include "nats/job_name.h"
#include "nats/options.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TEXTS = 8 };

static char *texts[TEXTS]; /* each of its own, so that a byte too many is noticed */
static size_t ntexts;
static const struct error_headers
    *written; /* instead of the texts, where there are some */

/* In the place of libnats' messages. */
const char *engine_header_of(const struct engine_message *m, const char *name) {
  static const char *const names[] = {"Mf-Error",     "Mf-Started", "Mf-Message",
                                      "Mf-Traceback", "Mf-Value",   "Mf-Exit"};
  (void)m;
  for (size_t i = 0; written && i < written->n; i++)
    if (strcmp(written->list[i].name, name) == 0)
      return written->list[i].value;
  for (size_t i = 0; !written && i < sizeof names / sizeof *names && i < ntexts; i++)
    if (strcmp(names[i], name) == 0)
      return texts[i];
  return NULL;
}

static int is_same_text(const char *a, const char *b) {
  size_t n = a ? strlen(a) : 0;
  n = n < ERROR_TEXT_MAX ? n : ERROR_TEXT_MAX;
  return n == 0 || (b && strlen(b) == n && memcmp(a, b, n) == 0);
}

static void look_at_error(void) {
  struct error_read first, again;
  struct error_headers h;
  written = NULL;
  int r = error_read_init(&first, NULL);
  assert(r == 0 || r == 1);
  if (r == 0)
    return;
  const mf_error *e = &first.error;
  assert(e->code < 0 && e->message);
  if (e->exit)
    assert(e->exit->known && e->exit->signal >= 0 && e->exit->signal < 128 &&
           e->exit->code >= 0 && e->exit->code < 256);
  assert(error_headers_init(&h, e) == 0);
  assert(h.n <= ERROR_HEADERS);
  written = &h;
  assert(error_read_init(&again, NULL) == 1);
  assert(again.error.code == e->code && again.error.started == e->started);
  assert(is_same_text(e->message, again.error.message));
  assert(is_same_text(e->traceback, again.error.traceback));
  if (e->value_length <= ERROR_VALUE_MAX)
    assert(again.error.value_length == e->value_length &&
           (e->value_length == 0 ||
            memcmp(again.error.value, e->value, e->value_length) == 0));
  assert(!e->exit == !again.error.exit);
  if (e->exit)
    assert(again.exit.signal == e->exit->signal && again.exit.code == e->exit->code);
  error_read_deinit(&again);
  error_headers_deinit(&h);
  error_read_deinit(&first);
}

static void look_at_job(const char *text) {
  char id[JOB_ID_MAX + 1], word[JOB_WORD_SIZE], again[JOB_ID_MAX + 1];
  struct job_subject subject;
  struct job_delivery delivery;
  int n = job_unword(text, strlen(text), id);
  assert(n == -22 || (n > 0 && n <= JOB_ID_MAX && id[n] == '\0'));
  if (n > 0) {
    assert(job_word(id, (size_t)n, word) == 0 && strlen(word) < JOB_WORD_SIZE);
    assert(subject_fault(word) == NULL); /* it is a word of a subject */
    assert(job_unword(word, strlen(word), again) == n &&
           memcmp(id, again, (size_t)n) == 0);
  }
  if (job_subject(text, &subject) == 0) {
    assert(subject.lease_ms >= JOB_LEASE_MIN && subject.lease_ms <= JOB_LEASE_MAX);
    assert(subject.word > text && subject.word < text + strlen(text));
  }
  if (job_delivery(text, &delivery) == 0)
    assert(strncmp(text, "$JS.ACK.", 8) == 0);
  if (job_is_stream(text))
    assert(*text && strlen(text) <= JOB_STREAM_MAX && !strpbrk(text, ".*> %"));
}

static void look_at_url(const char *text) {
  if (nats_url_fault(text) == NULL)
    assert(*text && strlen(text) < 4096 && !strpbrk(text, " \t\r\n"));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  for (ntexts = 0; ntexts < TEXTS && size > 0; ntexts++) {
    const uint8_t *end = memchr(data, '\0', size);
    size_t n = end ? (size_t)(end - data) : size;
    char *text = texts[ntexts] = malloc(n + 1);
    assert(text);
    memcpy(text, data, n);
    text[n] = '\0';
    data += end ? n + 1 : n;
    size -= end ? n + 1 : n;
    look_at_job(text);
    look_at_url(text);
  }
  look_at_error();
  while (ntexts > 0)
    free(texts[--ntexts]);
  return 0;
}
