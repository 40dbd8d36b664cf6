/* See second_thread.h. */
#include "template/lua/second_thread.h"

#include "moonfork.h"
#include "os/proc.h"

#include <errno.h>
#include <stdio.h>

int second_thread_refuses(const struct server *s, char why[IMAGE_TEXT_MAX]) {
  char text[160];
  if (s->audit_level == MF_SEAL_AUDIT_OFF ||
      (s->await_threads && s->await_threads(s, 0) > 0))
    return 0;
  int n = proc_threads_at_rest();
  if (n <= 1)
    return 0;
  (void)audit_thread_finding(&s->audit, n, text, sizeof text);
  snprintf(why, IMAGE_TEXT_MAX,
           "%s, and an image has none but the interpreter's; load the module after "
           "loading the image",
           text);
  return -EINVAL;
}
