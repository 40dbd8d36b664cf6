/* moonfork-template: the program that becomes a template, with stock Lua and its standard
 * libraries. Executed by the parent; everything is in entry.c. */
#include "template/fork/birth_data.h"
#include "template/fork/birth_maps.h"
#include "template/fork/birth_text.h"
#include "template/server/server.h"

#include <moonfork/template.h>

#ifdef MOONFORK_LEAN
static void prepare_births(void) {
  birth_text_prepare();
  birth_maps_prepare(); /* writes to the dynamic linker's variables: before they move */
  birth_data_prepare();
  server_move_title(server_self());
}
#endif

int main(int argc, char **argv) {
#ifdef MOONFORK_LEAN
  server_before_first_fork = prepare_births;
#endif
  return mf_template_main(argc, argv, NULL);
}
