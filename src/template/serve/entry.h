/* How a process becomes a template. Three callers: the program (mf_template_main,
 * mf_template_check), mf_early, and the Lua module for template() and early. */
#ifndef TEMPLATE_SERVE_ENTRY_H
#define TEMPLATE_SERVE_ENTRY_H

#include <lua.h>
#include <moonfork/template.h>

struct template_entry {
  int control_fd;                     /* takes */
  int leash_fd;                       /* takes; -1: none. The read end, not armed */
  const mf_template_options *options; /* may be NULL; borrowed for ever */
  lua_State *L;   /* a running interpreter to serve on, or NULL: a new one is made */
  int close_rest; /* close every other descriptor >= 3 first (after an exec) */
};

/* The caller's options (NULL: none, or of an older and shorter version) as a full struct.
 * 0 or MF_EINVAL. */
int template_options_load(const mf_template_options *from, mf_template_options *ret);
/* Serves; never returns: the template and each clone end inside with _exit. When L is
 * given it serves on a coroutine above the caller's frames and never returns below them.
 */
_Noreturn void template_enter(const struct template_entry *e);
/* Raises where L belongs to a template program of another build than this code, which is
 * that of a module (its name): they would take each other's objects for their own. */
void template_check_build(lua_State *L, const char *module);
/* Opens moonfork.clone on L (also in a plain parent, where on_fork and before_fork
 * register for a later template() or early, and the rest works or says that this is no
 * clone). Leaves the module table on the stack; a lua_CFunction. */
int template_open_clone(lua_State *L);
/* The same for moonfork.rpc (serve, event, flush) and moonfork.pool (retire). */
int template_open_rpc(lua_State *L);
int template_open_pool(lua_State *L);

#endif
