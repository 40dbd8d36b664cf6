/* A pool and its workers in the text of mf_dump. Runs in the parent. */
#ifndef PARENT_POOL_POOL_DUMP_H
#define PARENT_POOL_POOL_DUMP_H

#include <stdio.h>

struct dump_entry;

void pool_on_dump(const struct dump_entry *r, FILE *out);

#endif
