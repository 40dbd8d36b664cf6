/* See job_name.h. */
#include "nats/job_name.h"

#include <errno.h>
#include <string.h>

static int is_plain(unsigned char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
         c == '-' || c == '_';
}

int job_word(const char *id, size_t length, char room[JOB_WORD_SIZE]) {
  static const char hex[] = "0123456789ABCDEF";
  if (length == 0 || length > JOB_ID_MAX)
    return -EINVAL;
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)id[i];
    if (is_plain(c)) {
      *room++ = (char)c;
    } else {
      *room++ = '%';
      *room++ = hex[c >> 4];
      *room++ = hex[c & 15];
    }
  }
  *room = '\0';
  return 0;
}

static int digit_of(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int job_unword(const char *word, size_t length, char room[JOB_ID_MAX + 1]) {
  int n = 0;
  for (size_t i = 0; i < length; i++) {
    int byte = (unsigned char)word[i];
    if (byte == '%') {
      int high = i + 2 < length ? digit_of(word[i + 1]) : -1;
      int low = high < 0 ? -1 : digit_of(word[i + 2]);
      if (low < 0)
        return -EINVAL;
      byte = high << 4 | low;
      i += 2;
    } else if (!is_plain((unsigned char)byte)) {
      return -EINVAL;
    }
    if (n == JOB_ID_MAX)
      return -EINVAL;
    room[n++] = (char)byte;
  }
  room[n] = '\0';
  return n > 0 ? n : -EINVAL;
}

int job_is_stream(const char *name) {
  size_t n = strlen(name);
  if (n == 0 || n > JOB_STREAM_MAX)
    return 0;
  for (; *name; name++)
    if (!is_plain((unsigned char)*name))
      return 0;
  return 1;
}

/* A number up to a dot or the end; NULL where there is none. */
static const char *read_number(const char *c, uint64_t *ret) {
  uint64_t value = 0;
  const char *from = c;
  for (; *c >= '0' && *c <= '9'; c++) {
    unsigned digit = (unsigned)(*c - '0');
    if (value > (UINT64_MAX - digit) / 10)
      return NULL;
    value = value * 10 + digit;
  }
  if (c == from || (*c != '.' && *c != '\0'))
    return NULL;
  *ret = value;
  return *c == '.' ? c + 1 : c;
}

int job_delivery(const char *reply, struct job_delivery *ret) {
  const char *token[16];
  struct job_delivery d;
  size_t n = 0;
  if (reply == NULL || strncmp(reply, "$JS.ACK.", 8) != 0)
    return -EPROTO;
  for (const char *c = reply; c != NULL && n < 16;
       c = strchr(c, '.'), c = c ? c + 1 : NULL)
    token[n++] = c;
  /* 9 tokens, or 11 and more with a domain and an account before the stream. */
  size_t at = n >= 11 ? 6 : 4;
  if (n < 9 || read_number(token[at], &d.count) == NULL ||
      read_number(token[at + 1], &d.sequence) == NULL ||
      read_number(token[at + 3], &d.at_ms) == NULL)
    return -EPROTO;
  d.at_ms /= 1000000;
  *ret = d;
  return 0;
}

int job_subject(const char *rest, struct job_subject *ret) {
  struct job_subject s = {.is_later = 0};
  uint64_t lease;
  if (strncmp(rest, "job.", 4) == 0) {
    rest += 4;
  } else if (strncmp(rest, "later.", 6) == 0) {
    s.is_later = 1;
    rest += 6;
  } else {
    return -EPROTO;
  }
  s.word = read_number(rest, &lease);
  if (s.word == NULL || *s.word == '\0' || lease < JOB_LEASE_MIN || lease > JOB_LEASE_MAX)
    return -EPROTO;
  s.lease_ms = (unsigned)lease;
  *ret = s;
  return 0;
}

unsigned job_backoff_ms(uint64_t tries) {
  return tries < 8 ? 100u << (tries > 0 ? tries - 1 : 0) : 10000;
}
