/* What the audit can find: the kinds, how serious each is, why it matters, and what to do.
 * This is the only list of them: p:seal{audit=}, clone.findings() and `moonfork doctor`
 * print from it, and doc/doctor.md is compared with it. Runs in templates. */
#ifndef TEMPLATE_AUDIT_FINDING_H
#define TEMPLATE_AUDIT_FINDING_H

#include <stddef.h>

enum audit_severity {
  AUDIT_REFUSES = 2, /* no fork */
  AUDIT_WARNS = 1,   /* clones would share it, lose it, or inherit what nobody expects */
  AUDIT_NOTES = 0    /* moonfork takes care of it, or it is harmless in most programs */
};

enum audit_kind { /* doc/doctor.md says more about each */
                  AUDIT_THREAD,
                  AUDIT_EPOLL,
                  AUDIT_IO_URING,
                  AUDIT_TIMERFD,
                  AUDIT_SIGNALFD,
                  AUDIT_EVENTFD,
                  AUDIT_INOTIFY,
                  AUDIT_FANOTIFY,
                  AUDIT_PERF_EVENT,
                  AUDIT_USERFAULTFD,
                  AUDIT_PIDFD,
                  AUDIT_PIPE,
                  AUDIT_LISTENER,
                  AUDIT_CONNECTION,
                  AUDIT_SOCKET,
                  AUDIT_FILE,
                  AUDIT_FILE_WRITTEN,
                  AUDIT_DIRECTORY,
                  AUDIT_MEMFD,
                  AUDIT_TERMINAL,
                  AUDIT_DEVICE,
                  AUDIT_KERNEL_OBJECT,
                  AUDIT_LOCK,
                  AUDIT_TIMER,
                  AUDIT_POSIX_TIMER,
                  AUDIT_SIGNAL_HANDLER,
                  AUDIT_SIGNAL_IGNORED,
                  AUDIT_SIGNAL_MASK,
                  AUDIT_SIGNAL_STACK,
                  AUDIT_FIXED_SEED,
                  AUDIT_RANDOM,
                  AUDIT_IDENTITY,
                  AUDIT_TEMPORARY_NAME,
                  AUDIT_ENVIRONMENT_READ,
                  AUDIT_ENVIRONMENT,
                  AUDIT_FINALISER,
                  AUDIT_C_FINALISER,
                  AUDIT_FINALISED, /* told by the doctor alone, as OUTPUT and FORK_FAILED
                                    */
                  AUDIT_UNWRITTEN,
                  AUDIT_SHARED_MEMORY,
                  AUDIT_DEVICE_MEMORY,
                  AUDIT_LOCKED_MEMORY,
                  AUDIT_ABSENT_MEMORY,
                  AUDIT_AIO,
                  AUDIT_CHILD,
                  AUDIT_DIRECTORY_CHANGED,
                  AUDIT_UMASK,
                  AUDIT_NICE,
                  AUDIT_AFFINITY,
                  AUDIT_CREDENTIALS,
                  AUDIT_GROUP,
                  AUDIT_LIMITS,
                  AUDIT_LOCALE,
                  AUDIT_COLLECTOR_STOPPED,
                  AUDIT_COLLECTOR_MODE,
                  AUDIT_HOOK,
                  AUDIT_REPLACED,
                  AUDIT_EXIT_HANDLER,
                  AUDIT_FORK_HANDLER,
                  AUDIT_OUTPUT,
                  AUDIT_FORK_FAILED,
                  AUDIT_BLIND,
                  AUDIT_KIND_COUNT
};

struct finding {
  enum audit_kind kind;
  int fd;             /* or -1 */
  const char *module; /* who brought it; NULL: not known */
  const char *text;   /* what was found, the module included; one line */
};
typedef void audit_found(const struct finding *f, void *data);

struct audit_kind_text {
  const char *name;
  enum audit_severity severity;
  const char *why, *remedy; /* why it matters, and what to do */
};
extern const struct audit_kind_text audit_kinds[AUDIT_KIND_COUNT];
extern const char *const audit_severity_names[3]; /* "note", "warning", "refuses" */

enum { AUDIT_LINE_MAX = 768 };

/* "TEXT; WHY; REMEDY" */
void finding_line(const struct finding *f, char *ret, size_t n);

#endif
