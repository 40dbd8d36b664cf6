/* Where nobody lists the children of a process: replaces descendants_linux.c whole. Runs
 * in the near end. */
#include "os/descendants.h"

void descendants_adopt(int on) {
}

size_t descendants_signal(int signum, int (*keeps)(pid_t pid)) {
  return 0;
}
