/* Which shared object some code is in. Runs in the parent. */
#include "os/proc.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif

/* The program's own name would be its argv[0], which anybody chooses. */
static int in_program(const Dl_info *info) {
#ifdef __linux__
  Dl_info program;
  void *headers = (void *)getauxval(AT_PHDR);
  return headers && dladdr(headers, &program) && program.dli_fbase == info->dli_fbase;
#else
  return 0;
#endif
}

int proc_object_path(const void *address, char *ret, size_t size) {
  Dl_info info;
  char folder[4096];
  if (!dladdr((void *)address, &info) || !info.dli_fname ||
      !strchr(info.dli_fname, '/') || in_program(&info))
    return -ENOENT;
  int absolute = info.dli_fname[0] == '/';
  if (!absolute && !getcwd(folder, sizeof folder))
    return -errno;
  int n = absolute ? snprintf(ret, size, "%s", info.dli_fname)
                   : snprintf(ret, size, "%s/%s", folder, info.dli_fname);
  return n > 0 && (size_t)n < size ? 0 : -ENAMETOOLONG;
}
