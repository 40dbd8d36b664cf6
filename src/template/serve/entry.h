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
  int intake_fd;  /* of a template behind a link: takes; 0: none */
  int close_rest; /* close every other descriptor >= 3 first (after an exec) */
};

/* The caller's options (NULL: none, or of an older and shorter version) as a full struct.
 * 0 or MF_EINVAL. */
int template_options_load(const mf_template_options *from, mf_template_options *ret);
/* Serves; never returns: the template and each clone end inside with _exit. When L is
 * given it serves on a coroutine above the caller's frames and never returns below them.
 */
_Noreturn void template_enter(const struct template_entry *e);

struct server;
/* A clone that was forked out of a function (fork/promote.h): it is born, and serves. */
_Noreturn void entry_born(struct server *s);
/* The life of a clone that is a thread, whose record is s: it ends by s->leave. */
_Noreturn void entry_thread(struct server *s);

#endif
