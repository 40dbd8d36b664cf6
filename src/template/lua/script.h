/* What a server does in Lua, each step protected: loading, evaluating, hooks, finding the
 * function and calling it. A failure is told in s->failure, whatever the error object
 * was. Runs in templates and clones. */
#ifndef TEMPLATE_LUA_SCRIPT_H
#define TEMPLATE_LUA_SCRIPT_H

#include "template/lua/script_error.h"
#include "template/server/server.h"

/* All return 0, or -1 with s->failure set (code, phase, texts). */

/* A new interpreter for SETUP's options on s->heap: s->L. -ENOMEM too. */
int script_open(struct server *s, const struct options *o);
/* The same, from the image of the options. */
int script_load(struct server *s, const struct options *o);
/* package.path and package.cpath, where the options have them. May raise. */
void script_set_paths(lua_State *L, const struct options *o);
/* The same of new interpreters whose options have none: what an agent has found over there. */
void script_set_defaults(const char *path, const char *cpath);
/* What connects the interpreter with this process's record. */
void script_attach(struct server *s);
/* Prepares s->L, new or given: random numbers, os.exit, the modules of a clone. */
int script_prepare(struct server *s);
/* In a copy of an interpreter, whose region is at base: calls __clone(object) of the n
 * objects at these offsets. What it raises is told with the object's type and path. */
int script_call_clone(struct server *s, char *base, const uint64_t *offsets, size_t n,
                      int phase);
/* From now on s->L is a coroutine of our own above the frames that are there: these stay
 * as they are, unreached. */
int script_leave_frames(struct server *s);
/* The same in a copy of a running function, which serves. */
int script_serve_again(struct server *s);
int script_require(struct server *s, const char *name, size_t n);
/* The chunk is called as the first line of the code says ("-- =NAME"), else by eval's
 * name. */
int script_eval(struct server *s, const struct eval *eval);
int script_before_fork(struct server *s);
/* In the clone: reseeds, then the host's hook, then the scripts' in order. */
int script_reseed(struct server *s);
int script_on_fork(struct server *s);
int script_has_before_fork(void);
int script_has_on_fork(const struct server *s);
/* Leaves function, a place for the socket, and the arguments on the stack of s->L;
 * s->run.nargs counts the place too. */
int script_resolve(struct server *s, const char *name, size_t n);
/* The same for a global function, which needs no user code to be found: 1, or 0 with
 * nothing left on the stack: it is not one. */
int script_find_global(struct server *s, const char *name, size_t n);
int script_find_suspended(struct server *s); /* for a function that is to go on */
int script_push_args(struct server *s);
/* For functions that call others by name: pushes what script_resolve would find; raises.
 */
void script_push_function(lua_State *L, const char *name, size_t n);
/* Puts the socket (taken) into its place and calls. 0, or -1: it raised. */
int script_run(struct server *s, int fd);

#endif
