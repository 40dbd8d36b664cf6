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

/* A port behind the host that is no number from 1 to 65535. */
static int has_bad_port(const char *host, size_t n) {
  const char *end = memchr(host, '/', n), *last;
  end = end ? end : host + n;
  for (last = end; last > host && last[-1] != ':' && last[-1] != ']'; last--)
    if (last[-1] == '@')
      return 0;
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
  for (const char *one = url; *one; one += *one == ',') {
    size_t n = strcspn(one, ",");
    const char *colon = strstr(one, "://");
    size_t scheme = colon && colon < one + n ? (size_t)(colon - one) : 0;
    if (scheme > 0 && !(scheme == 4 && strncasecmp(one, "nats", 4) == 0) &&
        !(scheme == 3 && strncasecmp(one, "tls", 3) == 0))
      return "it begins neither with nats:// nor with tls://";
    size_t host = scheme > 0 ? scheme + 3 : 0;
    if (has_bad_port(one + host, n - host))
      return "its port is no number from 1 to 65535";
    one += n;
  }
  return NULL;
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
