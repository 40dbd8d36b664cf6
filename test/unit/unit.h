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

#define COUNT(array) (sizeof(array) / sizeof *(array))

#endif
