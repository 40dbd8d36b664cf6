/* careless: a host that starts itself as its template program. Without the word "checked"
 * it forgets to call mf_template_check, and so is a host again when it is started.
 * Appends a byte to $CARELESS_LOG at each start. Runs as parent; with "checked" as
 * template and clone too.
 *
 * CARELESS_PROGRAM: the program instead of itself. CARELESS_WORDS: "environment": the
 * program that the environment names; "stay": never ends by itself. All by the
 * environment, for as a template program it gets other arguments. Prints the error of its
 * run, or "fine". */
#include <fcntl.h>
#include <moonfork.h>
#include <moonfork/template.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

static void on_run(mf_process *process, const mf_error *error, int socket, void *data) {
  if (error != NULL)
    printf("%s: %s\n", mf_errname(error->code), error->message);
  else
    printf("fine\n");
  fflush(stdout);
  if (socket >= 0)
    close(socket);
  mf_close(process, NULL, NULL);
}

static void log_start(void) {
  const char *path = getenv("CARELESS_LOG");
  int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0666) : -1;
  if (fd >= 0 && write(fd, "x", 1) == 1)
    close(fd);
}

static int has(const char *word) {
  const char *words = getenv("CARELESS_WORDS");
  return words && strstr(words, word);
}

int main(int argc, char **argv) {
  mf_options options = MF_OPTIONS_INIT;
  mf_process *p;
  log_start();
  if (has("checked"))
    mf_template_check(argc, argv, NULL);
  if (!has("environment"))
    options.program = getenv("CARELESS_PROGRAM") ? getenv("CARELESS_PROGRAM") : argv[0];
  printf("euid %d\n", (int)geteuid());
  fflush(stdout);
  int r = mf_new_exec(&options, &p);
  if (!r)
    r = mf_run(p, "type", on_run, NULL); /* it prints nothing */
  if (r < 0)
    printf("%s\n", mf_strerror(r));
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
  while (has("stay"))
    pause();
  return r < 0;
}
