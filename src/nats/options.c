/* Options and texts (options.h). */
#include "nats/options.h"

#include "nats/envelope.h"
#include "nats/job_name.h"
#include <string.h>
#include <strings.h>

enum { URL_MAX = 4096 };

void mf_nats_options_init(mf_nats_options *options) {
  *options = (mf_nats_options)MF_NATS_OPTIONS_INIT;
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
    one += n;
  }
  return NULL;
}

static int is_unfit(const mf_nats_options *o) {
  if (o->jobs && (!job_is_stream(o->jobs) || o->keep_s == 0))
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
