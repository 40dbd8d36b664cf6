/* See error_headers.h. */
#include "nats/error_headers.h"

#include "nats/options.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *error_name(int code) {
  if (code == MF_EINVAL)
    return "EINVAL"; /* as Lua calls it */
  switch (code) {
#define NAME(name, value, text)                                                          \
  case value:                                                                            \
    return #name;
    MF_ERROR_MAP(NAME)
#undef NAME
  default:
    return "REMOTE";
  }
}

static int is_plain(unsigned char c) {
  return c > ' ' && c < 0x7f && c != '%';
}

/* Gives where to go on. */
static char *escape(char *to, const void *bytes, size_t n) {
  static const char hex[] = "0123456789ABCDEF";
  const unsigned char *from = bytes;
  for (size_t i = 0; i < n; i++) {
    if (is_plain(from[i])) {
      *to++ = (char)from[i];
    } else {
      *to++ = '%';
      *to++ = hex[from[i] >> 4];
      *to++ = hex[from[i] & 15];
    }
  }
  *to++ = '\0';
  return to;
}

static int digit_of(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* In its place or before it; what is no escape stays as it is. With a NUL behind it. */
static size_t unescape(char *to, const char *from) {
  char *begin = to;
  while (*from != '\0') {
    int high = *from == '%' ? digit_of(from[1]) : -1;
    int low = high < 0 ? -1 : digit_of(from[2]);
    *to++ = low < 0 ? *from : (char)(high << 4 | low);
    from += low < 0 ? 1 : 3;
  }
  *to = '\0';
  return (size_t)(to - begin);
}

static size_t bounded(const char *text) {
  size_t n = text ? strlen(text) : 0;
  return n < ERROR_TEXT_MAX ? n : ERROR_TEXT_MAX;
}

static void add(struct error_headers *h, const char *name, const char *value) {
  h->list[h->n++] = (struct engine_header){name, value};
}

static const char *exit_text(const mf_exit *x, char *room, size_t size) {
  if (x->signal != 0)
    snprintf(room, size, "signal %d%s", x->signal, x->core ? " core" : "");
  else
    snprintf(room, size, "code %d", x->code);
  return room;
}

int error_headers_init(struct error_headers *h, const mf_error *e) {
  size_t text = bounded(e->message), trace = bounded(e->traceback);
  size_t value =
      e->value != NULL && e->value_length <= ERROR_VALUE_MAX ? e->value_length : 0;
  char *c = malloc(3 * (text + trace + value) + 3 + 32);
  memset(h, 0, sizeof *h);
  if (c == NULL)
    return -ENOMEM;
  h->room = c;
  add(h, "Mf-Error", error_name(e->code));
  add(h, "Mf-Started", e->started == MF_STARTED_NO ? "no" : "unknown");
  add(h, "Mf-Message", c);
  c = escape(c, e->message, text);
  if (trace > 0) {
    add(h, "Mf-Traceback", c);
    c = escape(c, e->traceback, trace);
  }
  if (value > 0) {
    add(h, "Mf-Value", c);
    c = escape(c, e->value, value);
  }
  if (e->exit != NULL && e->exit->known)
    add(h, "Mf-Exit", exit_text(e->exit, c, 32));
  return 0;
}

void error_headers_deinit(struct error_headers *h) {
  free(h->room);
}

static int code_of(const char *name) {
  static const int codes[] = {
#define CODE(name, value, text) value,
      MF_ERROR_MAP(CODE)
#undef CODE
  };
  for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
    if (strcmp(error_name(codes[i]), name) == 0)
      return codes[i];
  return MF_EREMOTE;
}

/* Up to a blank or the end; -1: no number, or one beyond `most`. */
static int read_small(const char *text, int most) {
  int n = 0;
  const char *at = text;
  for (; *at >= '0' && *at <= '9' && n <= most; at++)
    n = n * 10 + *at - '0';
  return at > text && (*at == '\0' || *at == ' ') && n <= most ? n : -1;
}

static void read_exit(const char *text, mf_exit *x) {
  int n;
  if (strncmp(text, "signal ", 7) == 0 && (n = read_small(text + 7, 127)) > 0)
    *x = (mf_exit){.known = 1, .signal = n, .core = strstr(text, " core") != NULL};
  else if (strncmp(text, "code ", 5) == 0 && (n = read_small(text + 5, 255)) >= 0)
    *x = (mf_exit){.known = 1, .code = n};
}

int error_read_init(struct error_read *r, const struct engine_message *m) {
  static const char *const names[] = {"Mf-Message", "Mf-Traceback", "Mf-Value"};
  const char *code = engine_header_of(m, "Mf-Error"), *text[3], *word;
  size_t n = 0, length[3] = {0};
  char *at[3] = {NULL};
  if (code == NULL)
    return 0;
  for (int i = 0; i < 3; i++) {
    text[i] = engine_header_of(m, names[i]);
    n += text[i] ? strlen(text[i]) + 1 : 0;
  }
  memset(r, 0, sizeof *r);
  r->room = malloc(n + 1);
  if (r->room == NULL)
    return -ENOMEM;
  char *c = r->room;
  for (int i = 0; i < 3; i++)
    if (text[i] != NULL) {
      at[i] = c;
      length[i] = unescape(c, text[i]);
      c += length[i] + 1;
    }
  word = engine_header_of(m, "Mf-Started");
  r->error =
      (mf_error){.code = code_of(code),
                 .message = at[0] ? at[0] : nats_error_text(code_of(code)),
                 .traceback = at[1],
                 .started = word != NULL && strcmp(word, "no") == 0 ? MF_STARTED_NO
                                                                    : MF_STARTED_UNKNOWN,
                 .value = at[2],
                 .value_length = length[2]};
  word = engine_header_of(m, "Mf-Exit");
  if (word != NULL) {
    read_exit(word, &r->exit);
    if (r->exit.known)
      r->error.exit = &r->exit;
  }
  return 1;
}

void error_read_deinit(struct error_read *r) {
  free(r->room);
}
