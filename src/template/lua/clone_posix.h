/* The plain-POSIX part of moonfork.clone (doc/lua-api.md): exec, fork, waitpid, kill,
 * pipe, pid, ppid, the forking pipes, title and id. Runs in templates, clones and, as
 * nothing here needs a clone, in a parent that required moonfork.clone.
 *
 * In detail:
 *  - exec(file, argv [, options]): clone_exec.h;
 *  - fork() gives 0 in the new process, its pid in the old one;
 *  - waitpid([pid [, "nohang"]]) gives the pid and {code=, signal=, core=}, or 0 when
 *    nothing has ended yet. In a template wait by pid: its clones are reaped by itself;
 *  - kill(pid [, signal]): name or number, "TERM" by default;
 *  - pipe() gives reader and writer as moonfork.sockets;
 *  - pipe_to_fork(f): the new process reads on its standard input what the caller writes
 * to the near end; pipe_from_fork(f): the other way round, with its standard output. f
 * gets the far end as a moonfork.socket; when it returns, the process leaves with 0, when
 * it raises with 1 and the traceback on standard error. */
#ifndef TEMPLATE_LUA_CLONE_POSIX_H
#define TEMPLATE_LUA_CLONE_POSIX_H

#include <lua.h>

/* Sets the functions as fields of the table at module_index. */
void clone_posix_open(lua_State *L, int module_index);
/* This thread is the clone from now on, by that number: it can neither fork nor exec,
 * which would be its process's. */
void clone_posix_thread(int number);
/* Says why this process may not fork by itself now; NULL (also the variable): it may. */
extern const char *(*clone_fork_refused)(void);

#endif
