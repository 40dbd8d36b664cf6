/* A template program in which the addresses that MOONFORK_TEST_OCCUPIED names in hex,
 * separated by commas, are taken: an image that lies there has to be moved. */
#include <moonfork/template.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

int main(int argc, char **argv) {
  const char *list = getenv("MOONFORK_TEST_OCCUPIED");
  while (list && *list) {
    char *end;
    uintptr_t at = (uintptr_t)strtoull(list, &end, 16);
    void *want = (void *)at; /* NOLINT: an address from outside */
    if (end == list ||
        mmap(want, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
             0) != want) {
      fprintf(stderr, "occupied: %s\n", list);
      return 3;
    }
    list = *end ? end + 1 : end;
  }
  return mf_template_main(argc, argv, NULL);
}
