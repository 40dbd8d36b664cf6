/* Memory that runs out: malloc(3) and its like as the linker wraps them. */
#include "process_sim_memory.h"

unsigned fail_in, fail_count;
struct sim *failing;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

static int fails(void) {
  if (!failing || failing->inside || !fail_in || --fail_in)
    return 0;
  fail_in = fail_count && --fail_count ? 1 : 0;
  return 1;
}

void *__wrap_malloc(size_t n) {
  return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size) {
  return fails() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n) {
  return fails() ? NULL : __real_realloc(p, n);
}
