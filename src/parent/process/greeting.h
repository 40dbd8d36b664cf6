/* What a process says of itself first (ANS_HELLO), and the texts of errors about
 * processes that say something else, or nothing. Runs in the parent. Pure. */
#ifndef PARENT_PROCESS_GREETING_H
#define PARENT_PROCESS_GREETING_H

#include "wire/build.h"
#include "wire/frame.h"

struct mf_process;

struct greeting {
  unsigned version;  /* of the protocol */
  uint64_t executed; /* with our version only, as is the build */
  struct build build;
  int tree; /* it leads a process group: option tree */
};
/* 0, or -EPROTO: no hello of any version. */
int greeting_read(const struct frame *f, struct greeting *ret);
/* Whether it is of our protocol and build. */
int greeting_is_ours(const struct greeting *g);
/* What is wrong with one that is not: names both programs, and says what to do. To be
 * freed; NULL: no memory. */
char *greeting_complaint(const struct greeting *g, const struct mf_process *p);
/* "the template program PATH", or what else it is. In room. */
enum { GREETING_NAME_MAX = 4200 };
const char *greeting_name(const struct mf_process *p, char *room);
/* What a program that said no hello may lack: a clause, or "". */
const char *greeting_hint(const struct mf_process *p);

#endif
