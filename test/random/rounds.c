/* rounds: runs a command for each of many seeds, the seed its last argument (round.h).
 *
 *   rounds [--seconds S] [--rounds N] [--seed N] [--deadline S] [--verbose] COMMAND...
 */
#include "round.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char **command;
static int nwords;

static int run_command(uint64_t seed) {
  char text[32], **argv = calloc((size_t)nwords + 2, sizeof *argv);
  snprintf(text, sizeof text, "%llu", (unsigned long long)seed);
  memcpy(argv, command, (size_t)nwords * sizeof *argv);
  argv[nwords] = text;
  execvp(argv[0], argv);
  perror(argv[0]);
  return 127;
}

int main(int argc, char **argv) {
  static char replay[1000];
  const char *scale = getenv("STORY_SCALE");
  struct rounds r = {.name = "random",
                     .seconds = 10,
                     .deadline_s = 60,
                     .replay = replay,
                     .first_seed =
                         (uint64_t)time(NULL) * 1000 + (uint64_t)getpid() % 1000};
  int i = 1;
  for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i++) {
    if (strcmp(argv[i], "--verbose") == 0)
      r.verbose = 1;
    else if (strcmp(argv[i], "--seconds") == 0)
      r.seconds = atof(argv[++i]);
    else if (strcmp(argv[i], "--rounds") == 0)
      r.count = atol(argv[++i]);
    else if (strcmp(argv[i], "--deadline") == 0)
      r.deadline_s = (unsigned)atoi(argv[++i]);
    else if (strcmp(argv[i], "--seed") == 0)
      r.first_seed = strtoull(argv[++i], NULL, 10), r.count = r.count ? r.count : 1;
  }
  if (i >= argc) {
    fprintf(stderr, "usage: rounds [--seconds S] [--rounds N] [--seed N] [--deadline S] "
                    "[--verbose] COMMAND...\n");
    return 2;
  }
  if (scale)
    r.deadline_s = (unsigned)(r.deadline_s * atof(scale));
  command = argv + i;
  nwords = argc - i;
  size_t n = 0;
  for (int k = 0; k < nwords && n < sizeof replay; k++)
    n +=
        (size_t)snprintf(replay + n, sizeof replay - n, "%s%s", k ? " " : "", command[k]);
  return rounds_run(&r, run_command) > 0;
}
