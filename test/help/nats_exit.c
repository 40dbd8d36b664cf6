/* A program that forks a copy of itself beside a far pool: the copy calls exit, and one of
 * the functions that exit calls stands still there, as those of libnats do when a thread
 * of the program had a mutex of theirs.
 *
 *   nats_exit URL      prints the copy's status once it has ended */
#include <moonfork/nats.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

enum { SECONDS = 40 };

static pid_t program;

static void stand_still(void) {
  while (getpid() != program)
    pause();
}

static int wait_for(pid_t copy, int *status) {
  for (int i = 0; i < SECONDS * 100; i++) {
    if (waitpid(copy, status, WNOHANG) == copy)
      return 0;
    usleep(10000);
  }
  kill(copy, SIGKILL);
  waitpid(copy, status, 0);
  return -1;
}

int main(int argc, char **argv) {
  mf_nats_options o = MF_NATS_OPTIONS_INIT;
  uv_loop_t loop;
  mf_far *far;
  int status = 0;
  if (argc != 2 || uv_loop_init(&loop) != 0)
    return 2;
  program = getpid();
  atexit(stand_still);
  o.url = argv[1];
  o.subject = "w";
  if (mf_far_new(&loop, &o, &far) != 0)
    return 2;
  pid_t copy = fork();
  if (copy == 0) {
    printf("left ");
    exit(7);
  }
  if (copy < 0)
    return 2;
  if (wait_for(copy, &status) < 0)
    printf("it stands still\n");
  else if (WIFEXITED(status))
    printf("status %d\n", WEXITSTATUS(status));
  mf_far_close(far, NULL, NULL);
  uv_run(&loop, UV_RUN_DEFAULT);
  return 0;
}
