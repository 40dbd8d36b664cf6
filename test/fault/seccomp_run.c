/* seccomp_run: runs a program for which some system calls fail, as on an old kernel
 * (ENOSYS) or in a strict container (EPERM), or are its end (KILL).
 *
 *   seccomp_run ENOSYS|EPERM|KILL CALL[,CALL...] PROGRAM [ARGUMENT...]
 *
 * A call is one of the names in the table; "clone_parent" is clone(2) with CLONE_PARENT
 * only. "clone3" is what glibc falls back from by itself when it is ENOSYS; with EPERM it
 * does not, which is the container's fault. The filter lives on in everything the program
 * starts. Exit 77: no filter can be set here.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#else
#define ARCH 0
#endif

enum { EXIT_SKIP = 77, MAX_CALLS = 16, CLONE_PARENT_ONLY = -1 };

static const struct {
  const char *name;
  int number;
} calls[] = {
    {"pidfd_open", SYS_pidfd_open},
    {"close_range", SYS_close_range},
    {"clone", SYS_clone},
    {"clone3", SYS_clone3},
    {"prctl", SYS_prctl},
    {"execveat", SYS_execveat},
    {"memfd_create", SYS_memfd_create},
    {"getrandom", SYS_getrandom},
    {"pidfd_send_signal", SYS_pidfd_send_signal},
    {"madvise", SYS_madvise},
    {"statx", SYS_statx},
    {"unshare", SYS_unshare},
    {"userfaultfd", SYS_userfaultfd},
    {"sched_getscheduler", SYS_sched_getscheduler},
    {"sched_setscheduler", SYS_sched_setscheduler},
    {"accept4", SYS_accept4},
    {"bind", SYS_bind},
    {"connect", SYS_connect},
    {"listen", SYS_listen},
    {"clone_parent", CLONE_PARENT_ONLY},
};

static int number_of(const char *name, size_t length) {
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++)
    if (strlen(calls[i].name) == length && memcmp(calls[i].name, name, length) == 0)
      return calls[i].number;
  fprintf(stderr, "seccomp_run: unknown call %.*s\n", (int)length, name);
  exit(2);
}

static size_t parse(const char *list, int *ret_numbers) {
  size_t count = 0;
  while (*list && count < MAX_CALLS) {
    size_t length = strcspn(list, ",");
    ret_numbers[count++] = number_of(list, length);
    list += length + (list[length] == ',');
  }
  return count;
}

static int set_filter(const int *numbers, size_t count, unsigned action) {
  struct sock_filter code[5 * MAX_CALLS + 5];
  unsigned short n = 0;
  code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                           offsetof(struct seccomp_data, arch));
  code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0);
  code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                           offsetof(struct seccomp_data, nr));
  for (size_t i = 0; i < count; i++) {
    if (numbers[i] == CLONE_PARENT_ONLY) {
      code[n++] =
          (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 4);
      code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                               offsetof(struct seccomp_data, args[0]));
      code[n++] =
          (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, CLONE_PARENT, 0, 1);
      code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
      code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                                               offsetof(struct seccomp_data, nr));
      continue;
    }
    code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
                                             (unsigned)numbers[i], 0, 1);
    code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
  }
  code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  struct sock_fprog program = {n, code};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
    return -1;
  return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int main(int argc, char **argv) {
  int numbers[MAX_CALLS];
  if (argc < 4) {
    fprintf(stderr,
            "usage: seccomp_run ENOSYS|EPERM|KILL CALL[,CALL...] PROGRAM [ARG...]\n");
    return 2;
  }
  unsigned error = strcmp(argv[1], "ENOSYS") == 0 ? ENOSYS : EPERM;
  unsigned action =
      strcmp(argv[1], "KILL") == 0 ? SECCOMP_RET_KILL_PROCESS : SECCOMP_RET_ERRNO | error;
  size_t count = parse(argv[2], numbers);
  if (ARCH == 0 || set_filter(numbers, count, action) < 0)
    return EXIT_SKIP;
  execvp(argv[3], argv + 3);
  fprintf(stderr, "seccomp_run: %s: %s\n", argv[3], strerror(errno));
  return 127;
}
