#include "os/flush.h"

#include <stdio.h>

#if defined(__GLIBC__) && defined(__has_include)
#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#define CAN_LOOK 1
#endif
#endif

#ifdef CAN_LOOK

/* glibc's list of all streams, and its last three, which are always there; they are
 * exported, but no header tells of them. The fields are those of the public struct. Other
 * threads open and close streams meanwhile, so only a process that has none may look at
 * more than these three. As long as nobody has opened any that is not asked for: it
 * stands in another page than they do, and each that a clone looks at is a fault. */
extern FILE *all_streams __asm__("_IO_list_all");
extern FILE standard_input __asm__("_IO_2_1_stdin_");
extern FILE standard_output __asm__("_IO_2_1_stdout_");
extern FILE standard_error __asm__("_IO_2_1_stderr_");

static int is_pending(const FILE *f) {
  return f->_IO_write_ptr > f->_IO_write_base ||
         f->_mode > 0; /* _mode: wide characters */
}

static int is_standard(const FILE *f) {
  return f == &standard_input || f == &standard_output || f == &standard_error;
}

static int has_pending(void) {
  for (const FILE *f = all_streams; f; f = f->_chain)
    if ((!is_standard(f) && !__libc_single_threaded) || is_pending(f))
      return 1;
  return 0;
}

#else

static int has_pending(void) {
  return 1;
}

#endif

void flush_pending(void) {
  if (has_pending())
    fflush(NULL);
}
