/* What the files of this folder share. They have the functions of moonfork.h: each
 * checks, makes one event of what was asked, and says what the table answered. Runs in
 * the parent. */
#ifndef PARENT_API_API_H
#define PARENT_API_API_H

#include <errno.h>
#include <moonfork.h>

/* A result of the layers below, as the user knows it. */
static inline int api_result(int r) {
  return r == -ENOMEM ? MF_ENOMEM : r;
}

#endif
