/* A pool and its workers in the text of mf_dump. Runs in the parent. */
#ifndef PARENT_POOL_DUMP_H
#define PARENT_POOL_DUMP_H

#include <stdio.h>

struct resident;

void pool_on_dump(const struct resident *r, FILE *out);

#endif
