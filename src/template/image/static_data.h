/* Static data of C modules, and of the libraries that they need: variables outside of the
 * interpreter, which an image does not hold. Where they are as in a process that has just
 * loaded the module, nothing is missing. Runs in templates and clones. */
#ifndef TEMPLATE_IMAGE_STATIC_DATA_H
#define TEMPLATE_IMAGE_STATIC_DATA_H

#include "template/image/libraries.h"

#include <lua.h>

/* Compares those of all C modules that require has loaded. The state lies in nbytes from
 * base on. 0, or a negative errno and why: -EINVAL where some differ and nobody vouches
 * for their module (module_clone.h). Afterwards, in every case: static_data_end. */
int static_data_check(lua_State *L, const struct libraries *here, const void *base,
                      size_t nbytes, char *why, size_t nwhy);
void static_data_end(lua_State *L);

#endif
