#include "template/thread/thread_copy.h"
#include <errno.h>

int thread_copy(struct server *from, struct server *to) {
  failure_record_set_at(ORIGIN, &from->failure, FAILURE_UNSUPPORTED, PHASE_FORK, ENOTSUP,
                        "TEMPORARY");
  return -1;
}
void thread_copy_free(struct server *s) {
}
