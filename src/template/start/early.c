/* mf_early: the forked copy of a host serves as a template. Runs in that copy;
 * libmoonfork forks and remembers it. Only in libmoonfork-template, not in the template
 * program. */
#include <moonfork.h>
#include <moonfork/template.h>

#include "template/serve/entry.h"

static void serve_copy(int control_fd, int leash_fd, void *options) {
  struct template_entry entry = {
      .control_fd = control_fd, .leash_fd = leash_fd, .options = options};
  template_enter(&entry);
}

int mf_early(const mf_template_options *options) {
  static mf_template_options full; /* the copy goes on needing it */
  int r = template_options_load(options, &full);
  return r ? r : mf_fork_early(serve_copy, &full);
}
