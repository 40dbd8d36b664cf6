/* Options and texts (options.h). */
#include "nats/options.h"

#include "nats/envelope.h"
#include "nats/job_name.h"
#include <string.h>
#include <strings.h>

enum { URL_MAX = 4096 };

void mf_nats_options_init(mf_nats_options *options) {
  if (options)
    *options = (mf_nats_options)MF_NATS_OPTIONS_INIT;
}

/* Where the host and the port begin: behind user and password. */
static const char *host_of(const char *s, const char *end) {
  for (const char *at = end; at > s; at--)
    if (at[-1] == '@')
      return at;
  return s;
}

/* ":4222", but not "::1". */
static int has_no_host(const char *host, const char *end) {
  return host == end ||
         (*host == ':' && !memchr(host + 1, ':', (size_t)(end - host - 1)));
}

/* A port behind the host that is no number from 1 to 65535. */
static int has_bad_port(const char *host, const char *end) {
  const char *last = end;
  while (last > host && last[-1] != ':' && last[-1] != ']')
    last--;
  if (last == host || last[-1] == ']' || last == end)
    return 0;
  long port = 0;
  for (const char *s = last; s < end; s++) {
    if (*s < '0' || *s > '9' || port > 65535)
      return 1;
    port = port * 10 + (*s - '0');
  }
  return port < 1 || port > 65535;
}

const char *nats_url_fault(const char *url) {
  if (!*url || strnlen(url, URL_MAX) == URL_MAX)
    return "it is empty, or has 4,096 bytes or more";
  for (const char *s = url; *s; s++)
    if ((unsigned char)*s <= ' ' || *s == 127)
      return "it has a blank or a control character";
  int nhosts = 0;
  for (const char *one = url; *one; one += *one == ',') {
    size_t n = strcspn(one, ",");
    if (n == 0)
      continue;
    const char *colon = strstr(one, "://");
    size_t scheme = colon && colon < one + n ? (size_t)(colon - one) : 0;
    if (scheme > 0 && !(scheme == 4 && strncasecmp(one, "nats", 4) == 0) &&
        !(scheme == 3 && strncasecmp(one, "tls", 3) == 0))
      return "it begins neither with nats:// nor with tls://";
    const char *begin = one + (scheme > 0 ? scheme + 3 : 0);
    const char *end = memchr(begin, '/', (size_t)(one + n - begin));
    end = end ? end : one + n;
    const char *host = host_of(begin, end);
    if (has_no_host(host, end))
      return "it has no host";
    if (has_bad_port(host, end))
      return "its port is no number from 1 to 65535";
    nhosts++;
    one += n;
  }
  return nhosts > 0 ? NULL : "it has no host";
}

const char *nats_name_fault(const char *name) {
  for (; *name; name++)
    if ((unsigned char)*name < ' ' || *name == 127)
      return "it has a control character";
  return NULL;
}

static int is_unfit(const mf_nats_options *o) {
  if (o->jobs && (!job_is_stream(o->jobs) || o->keep_s == 0))
    return 1;
  if (o->name && nats_name_fault(o->name))
    return 1;
  return !o->url || nats_url_fault(o->url) || !o->subject || subject_fault(o->subject) ||
         o->beat_ms < 10 || o->silent_ms < 10 || (o->password && !o->user) ||
         !o->cert != !o->key;
}

int nats_options_read(const mf_nats_options *given, mf_nats_options *o,
                      struct engine_options *engine) {
  if (!given || given->size < sizeof given->size)
    return MF_EINVAL;
  mf_nats_options_init(o);
  memcpy(o, given, given->size < sizeof *o ? given->size : sizeof *o);
  o->size = sizeof *o;
  if (is_unfit(o))
    return MF_EINVAL;
  *engine = (struct engine_options){.url = o->url,
                                    .name = o->name ? o->name : "moonfork",
                                    .user = o->user,
                                    .password = o->password,
                                    .token = o->token,
                                    .creds = o->creds,
                                    .ca = o->ca,
                                    .cert = o->cert,
                                    .key = o->key};
  return 0;
}

const char *nats_error_text(int code) {
  switch (code) {
#define TEXT(name, value, text)                                                          \
  case value:                                                                            \
    return text;
    MF_ERROR_MAP(TEXT)
#undef TEXT
  default:
    return strerror(-code);
  }
}
