/* Children for tests of processes. */
#include "proc_kit.h"

#include "os/proc.h"
#include <sys/wait.h>

int wait_for(pid_t pid) {
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return status;
}
