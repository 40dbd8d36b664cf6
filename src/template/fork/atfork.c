/* Takes the registrations of fork handlers: a definition in the program comes before
 * libc's. Linked into the program and into libmoonfork-template, not into the Lua module.
 * Handlers go on to libc too, so that fork() works as ever.
 *
 * A library whose handlers are known here must not be unloaded: libc forgets the handlers
 * of what it unloads, and does not tell. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "template/fork/atfork.h"

#include "template/audit/audit_mark.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stddef.h>

enum { HANDLERS_MAX = 256 };
static struct atfork_handlers handlers[HANDLERS_MAX];
static int nhandlers;

static void run_prepare(void) {
  for (int i = nhandlers; i-- > 0;)
    if (handlers[i].prepare)
      handlers[i].prepare();
}

static void run_parent(void) {
  for (int i = 0; i < nhandlers; i++)
    if (handlers[i].parent)
      handlers[i].parent();
}

static void run_child(void) {
  for (int i = 0; i < nhandlers; i++)
    if (handlers[i].child)
      handlers[i].child();
}

static void keep_loaded(void *dso) {
  Dl_info info;
  struct link_map *map = NULL;
  if (dso && dladdr1(dso, &info, (void **)&map, RTLD_DL_LINKMAP) && map && map->l_name[0])
    dlopen(map->l_name, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

typedef int registration(void (*prepare)(void), void (*parent)(void), void (*child)(void),
                         void *dso);

static int take(void (*prepare)(void), void (*parent)(void), void (*child)(void),
                void *dso) {
  static registration *next;
  if (!next)
    *(void **)&next = dlsym(RTLD_NEXT, "__register_atfork");
  if (!next || nhandlers == HANDLERS_MAX)
    return ENOMEM;
  int error = next(prepare, parent, child, dso);
  if (error)
    return error;
  keep_loaded(dso);
  audit_fork_handlers++;
  handlers[nhandlers++] = (struct atfork_handlers){prepare, parent, child};
  atfork_prepare = run_prepare;
  atfork_parent = run_parent;
  atfork_child = run_child;
  return 0;
}

__attribute__((visibility("default"), alias("take"))) registration __register_atfork;

/* Not where this library was loaded later than libc. */
__attribute__((constructor)) static void look_who_is_first(void) {
  registration *first;
  *(void **)&first = dlsym(RTLD_DEFAULT, "__register_atfork");
  atfork_are_seen = first == take;
}
