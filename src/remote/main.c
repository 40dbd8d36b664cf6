/* The program moonfork-remote: both ends of fork.remote. */
#include "remote/ends.h"

#include "os/proc.h"
#include "wire/build.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
  /* When its parent ends, it reads the end of its streams, and ends. One that is stopped is
   * continued for that. */
  (void)proc_parent_death(SIGCONT);
  if (argc > 2 && strcmp(argv[1], "near") == 0)
    return remote_near(argv + 2);
  if ((argc == 3 || argc == 5) && strcmp(argv[1], "agent") == 0) {
    signal(SIGINT, SIG_IGN); /* Ctrl-C, on a terminal that the command shares */
    return remote_agent(argv + 2);
  }
  fprintf(
      stderr,
      "moonfork-remote %s: both ends of fork.remote. It is started by the library and "
      "by `moonfork agent`.\n",
      build_own.version);
  return 2;
}
