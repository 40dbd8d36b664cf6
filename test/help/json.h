/* Is a text JSON (RFC 8259, but for true, false, null and fractions, which the library
 * does not write)? Runs in unit tests. */
#ifndef HELP_JSON_H
#define HELP_JSON_H

int json_is(const char *text);

#endif
