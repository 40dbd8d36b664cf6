/* How a process leaves in a build that counts lines (-Db_coverage=true; `./dev
 * coverage`). Compiled only there; on both sides.
 *
 * Templates, clones and the children of tests leave by _exit, which runs no exit handler,
 * so the counters of what they executed would be lost. This _exit comes before libc's
 * wherever our code is linked, and writes them first. It is the only place: all code of
 * ours that leaves without exit handlers calls it, except the child of vfork, which has
 * only borrowed its counters. Who is ended by a signal writes nothing (doc/coverage.md).
 *
 * MOONFORK_COVERAGE is the build folder, below which the counters are. A process that
 * can't write there (another root, another user), or whose files are limited, writes
 * nothing: it would make folders in that root, complain on standard error, or die of
 * SIGXFSZ. */
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

void __gcov_dump(void);

static int can_write(void) {
  struct rlimit files;
  return getrlimit(RLIMIT_FSIZE, &files) == 0 && files.rlim_cur == RLIM_INFINITY &&
         access(MOONFORK_COVERAGE, W_OK | X_OK) == 0;
}

__attribute__((visibility("hidden"))) void _exit(int status) {
  if (can_write())
    __gcov_dump();
  _Exit(status); /* libc's, which does not come back here */
}
