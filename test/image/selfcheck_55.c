/* Whether the description of Lua states fits the Lua that this is linked with; for those
 * that moonfork itself is not compiled for (./dev configurations lua5.5). */
#include "image/selfcheck.h"

#include <stdio.h>

int main(void) {
  const char *reason = selfcheck_reason();
  printf("%s: %s\n", LUA_RELEASE, reason ? reason : "its states are as described");
  return reason != NULL;
}
