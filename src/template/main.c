/* moonfork-template: the program that becomes a template, with stock Lua and its standard
 * libraries. Executed by the parent; everything is in entry.c. */
#include <moonfork/template.h>

int main(int argc, char **argv) {
  return mf_template_main(argc, argv, NULL);
}
