/* moonfork-template: the program that becomes a template, with stock Lua and its standard
 * libraries. Executed by the parent; everything is in entry.c. */
#include "template/birth_text.h"
#include "template/server.h"

#include <moonfork/template.h>

int main(int argc, char **argv) {
#ifdef MOONFORK_LEAN
  server_before_first_fork = birth_text_prepare;
#endif
  return mf_template_main(argc, argv, NULL);
}
