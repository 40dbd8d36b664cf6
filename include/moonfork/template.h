/* For programs that are templates: hosts that bring their own C modules, or that have no
 * separate template program. pkg-config: moonfork-template. */
#ifndef MOONFORK_TEMPLATE_H
#define MOONFORK_TEMPLATE_H

#include <lua.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef MF_API
#if defined(__GNUC__)
#define MF_API __attribute__((visibility("default")))
#else
#define MF_API
#endif
#endif

typedef struct mf_template_options { /* start from MF_TEMPLATE_OPTIONS_INIT */
  size_t size;
  int (*open_libs)(lua_State *L, void *data); /* a lua_CFunction's contract: opens what
                                   scripts may use; NULL: luaL_openlibs */
  void (*on_fork)(lua_State *L, void *data);  /* in every clone, before any Lua */
  void *data;
  lua_Alloc
      alloc; /* the host's own allocator; NULL: moonfork's, which keeps clones small */
  void *alloc_data;
} mf_template_options;
#define MF_TEMPLATE_OPTIONS_INIT                                                         \
  { sizeof(mf_template_options), NULL, NULL, NULL, NULL, NULL }

/* A whole template program: serves, and returns the exit status of the process. */
MF_API int mf_template_main(int argc, char **argv, const mf_template_options *);
/* First thing in a host's main(): returns 0 in the host; in a template (the host's
 * program was executed as one) it does not return. */
MF_API int mf_template_check(int argc, char **argv, const mf_template_options *);
/* Forks a template at once, without exec. The first loop that asks for a default template
 * or for an exec gets it. Call it before threads and loops exist: -EBUSY with more than
 * one thread. 0, or a negative code. */
MF_API int mf_early(const mf_template_options *);

#ifdef __cplusplus
}
#endif
#endif
