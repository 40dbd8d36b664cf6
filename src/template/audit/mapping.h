/* The mappings of this process that a fork does not treat as memory, for the audit. The
 * library's own are left out. Runs in templates. */
#ifndef TEMPLATE_AUDIT_MAPPING_H
#define TEMPLATE_AUDIT_MAPPING_H

#include "template/audit/finding.h"

/* Calls found(kind, text, data) for each; text: "a shared mapping of 8 KiB (PATH)". */
void mapping_each(void (*found)(enum audit_kind kind, const char *text, void *data),
                  void *data);

#endif
