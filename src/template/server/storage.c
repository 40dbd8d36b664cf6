/* The record of this process. The program is linked with this file first: the variables of
 * base/at_birth.h begin with the one here, which has a page's alignment, and lie at the end
 * of what is not zero at the start; the record is the beginning of .bss, which follows at
 * once. So all that a birth writes of the program's is one page, but for the stack. Nothing
 * but speed depends on it. */
#include "base/at_birth.h"
#include "template/server/server.h"

#ifdef MOONFORK_IN_ORDER /* what optimises all files together has an order of its own */
AT_BIRTH __attribute__((used)) static _Alignas(4096) char page_begin = 1;
#endif
struct server server_storage;
