/* Names of variables in files of libraries, for messages. Runs in templates and clones.
 */
#ifndef TEMPLATE_IMAGE_SYMBOL_H
#define TEMPLATE_IMAGE_SYMBOL_H

#include <stddef.h>
#include <stdint.h>

/* What lies at the address, counted from where the file is loaded: "counter",
 * "table+0x18", or where the file has no symbols ".bss+0x20"; else "". */
void symbol_name(const char *file, uint64_t address, char *text, size_t n);

#endif
