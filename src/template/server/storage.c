/* The record of this process. The program is linked with this file first, so that it
 * follows the variables of base/at_birth.h at once: what is not zero at the start lies at
 * the end of .data, and this at the beginning of .bss. So all that a birth writes of the
 * program's is one page, but for the stack. Nothing but speed depends on it. */
#include "template/server/server.h"

struct server server_storage;
