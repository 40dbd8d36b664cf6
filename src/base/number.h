/* A number as text: exact, and with a point, whatever the locale says. Runs in every
 * process. */
#ifndef BASE_NUMBER_H
#define BASE_NUMBER_H

#include <stddef.h>

enum { NUMBER_TEXT_MAX = 32 };

/* The shortest text of 14 to 17 digits, written as by %g, that reads back as x ("inf",
 * "-nan" and the like where it is no number). Gives its length. */
size_t number_text(double x, char ret_text[NUMBER_TEXT_MAX]);

#endif
