/* mf_nats_options, and the texts of codes: this library also runs where libmoonfork does
 * not (moonfork.nats has the core's). Runs in the parent. */
#ifndef NATS_OPTIONS_H
#define NATS_OPTIONS_H

#include "nats/engine.h"
#include <moonfork/nats.h>

/* What was given, of whatever size, checked; strings are borrowed. 0 or MF_EINVAL. */
int nats_options_read(const mf_nats_options *given, mf_nats_options *o,
                      struct engine_options *engine);
const char *nats_error_text(int code);

/* NULL, or what is wrong with a URL, or several with commas. */
const char *nats_url_fault(const char *url);
/* NULL, or what is wrong with the name of a node. */
const char *nats_name_fault(const char *name);

#endif
