/* What is shown to the server: name, user, password and token as libnats takes them. It
 * puts them into the JSON of CONNECT as they are, so that a quotation mark would end the
 * text there; and what stands before the @ of a URL it takes without decoding it. Runs in
 * the parent, in the thread of an attempt. */
#include "nats/engine_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* It may have a secret: the memory is cleared before it is given back. */
static void wipe(char *text) {
  for (volatile char *p = text; p && *p; p++)
    *p = '\0';
  free(text);
}

/* As it stands between the quotation marks of JSON. NULL: no memory. */
static char *json_inside(const char *s) {
  char *to = malloc(6 * strlen(s) + 1), *p = to;
  if (!to)
    return NULL;
  for (; *s; s++) {
    if ((unsigned char)*s < ' ') {
      p += sprintf(p, "\\u%04x", (unsigned)*s);
      continue;
    }
    if (*s == '"' || *s == '\\')
      *p++ = '\\';
    *p++ = *s;
  }
  *p = '\0';
  return to;
}

static int digit(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  return (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* n bytes of a URL without their %XX; what would be a NUL stays as it is. */
static char *url_decoded(const char *s, size_t n) {
  char *to = malloc(n + 1), *p = to;
  if (!to)
    return NULL;
  for (size_t i = 0; i < n; i++) {
    int high = s[i] == '%' && n - i > 2 ? digit(s[i + 1]) : -1;
    int low = high >= 0 ? digit(s[i + 2]) : -1;
    if (low >= 0 && high + low > 0) {
      *p++ = (char)(high << 4 | low);
      i += 2;
    } else {
      *p++ = s[i];
    }
  }
  *p = '\0';
  return to;
}

/* Where the host of a server begins, and how many bytes before it are of the user. */
static char *user_part(char *server, size_t *ret) {
  char *scheme = strstr(server, "://");
  char *from = scheme ? scheme + 3 : server, *at = NULL;
  for (char *p = from; *p && *p != '/'; p++)
    if (*p == '@')
      at = p;
  *ret = at ? (size_t)(at - from) : 0;
  return from;
}

/* The user of a URL, and a password, or a token alone. 0 or -1. */
static int read_user(const char *s, size_t n, struct engine_login *login) {
  const char *colon = memchr(s, ':', n);
  size_t head = colon ? (size_t)(colon - s) : n;
  char *first = url_decoded(s, head);
  char *second = colon ? url_decoded(colon + 1, n - head - 1) : NULL;
  char **to = colon ? &login->user : &login->token;
  wipe(login->user), wipe(login->password), wipe(login->token);
  login->user = login->password = login->token = NULL;
  *to = first ? json_inside(first) : NULL;
  login->password = second ? json_inside(second) : NULL;
  wipe(first);
  wipe(second);
  return *to && (!colon || login->password) ? 0 : -1;
}

/* Servers of different users keep what they have, and libnats reads it. */
static int is_one_user(char *const *servers, int n) {
  const char *first = NULL;
  size_t length = 0;
  for (int i = 0; i < n; i++) {
    size_t m;
    const char *s = user_part(servers[i], &m);
    if (m > 0 && first && (m != length || memcmp(s, first, m) != 0))
      return 0;
    if (m > 0) {
      first = s;
      length = m;
    }
  }
  return 1;
}

static int take_user(char **servers, int n, struct engine_login *login) {
  for (int i = 0, is_read = 0; i < n; i++) {
    size_t m;
    char *s = user_part(servers[i], &m);
    if (m == 0)
      continue;
    if (!is_read++ && read_user(s, m, login) < 0)
      return -1;
    memmove(s, s + m + 1, strlen(s + m + 1) + 1);
  }
  return 0;
}

int engine_login_make(const struct engine_options *o, char **servers, int n,
                      struct engine_login *login) {
  *login = (struct engine_login){0};
  if ((o->name && !(login->name = json_inside(o->name))) ||
      (o->user && !(login->user = json_inside(o->user))) ||
      (o->password && !(login->password = json_inside(o->password))) ||
      (o->token && !(login->token = json_inside(o->token))))
    return -1;
  return is_one_user(servers, n) ? take_user(servers, n, login) : 0;
}

void engine_login_free(struct engine_login *login) {
  wipe(login->name);
  wipe(login->user);
  wipe(login->password);
  wipe(login->token);
}
