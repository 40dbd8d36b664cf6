/* What every unit test includes: cmocka with what it needs, the census, and a test's
 * small conveniences. */
#ifndef UNIT_UNIT_H
#define UNIT_UNIT_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "help/census.h"
#include <string.h>

/* An array of the block's own, for interfaces that want char * and don't write. */
#define TEXT(s) ((char[]){s})
#define COUNT(array) (sizeof(array) / sizeof *(array))

#endif
