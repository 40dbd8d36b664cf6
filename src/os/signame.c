#include "os/signame.h"

#include <signal.h>
#include <string.h>

static const struct signame names[] = {
    {"HUP", SIGHUP},     {"INT", SIGINT},       {"QUIT", SIGQUIT}, {"ILL", SIGILL},
    {"TRAP", SIGTRAP},   {"ABRT", SIGABRT},     {"BUS", SIGBUS},   {"FPE", SIGFPE},
    {"KILL", SIGKILL},   {"USR1", SIGUSR1},     {"SEGV", SIGSEGV}, {"USR2", SIGUSR2},
    {"PIPE", SIGPIPE},   {"ALRM", SIGALRM},     {"TERM", SIGTERM}, {"CHLD", SIGCHLD},
    {"CONT", SIGCONT},   {"STOP", SIGSTOP},     {"TSTP", SIGTSTP}, {"TTIN", SIGTTIN},
    {"TTOU", SIGTTOU},   {"URG", SIGURG},       {"XCPU", SIGXCPU}, {"XFSZ", SIGXFSZ},
    {"PROF", SIGPROF},   {"VTALRM", SIGVTALRM}, {"IO", SIGIO},     {"SYS", SIGSYS},
    {"WINCH", SIGWINCH},
#ifdef SIGPWR
    {"PWR", SIGPWR},
#endif
};
enum { COUNT = sizeof names / sizeof *names };

const struct signame *signame_at(size_t i) {
  return i < COUNT ? &names[i] : NULL;
}

int signame_number(const char *name) {
  const char *bare = strncmp(name, "SIG", 3) == 0 ? name + 3 : name;
  for (size_t i = 0; i < COUNT; i++)
    if (strcmp(bare, names[i].name) == 0)
      return names[i].number;
  return -1;
}
