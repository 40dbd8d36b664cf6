/* Files of pseudo-processes. Each has descriptors of its own, so each needs streams of
 * its own for them; standard input, output and error are the C library's, and
 * everybody's. */
#ifndef PSEUDO_STREAMS_H
#define PSEUDO_STREAMS_H

#include <lua.h>

/* In a new state: learns how Lua closes files, and puts io.popen and os.execute in place
 * that give children the caller's environment. The table of io is at index 1, that of os
 * at 2. */
void streams_open(lua_State *L);
/* Before a copy is made: writes what is buffered, and puts the descriptors of files that
 * are read where the program has read to. */
void streams_flush(lua_State *L);
/* In the copy, by its thread: a stream of its own for each file. 0 or -errno. */
int streams_renew(lua_State *L);
/* At the end of a process whose state is not closed: closes what it has open. */
void streams_end(lua_State *L);
/* pipe(): two files, what is written to the second can be read from the first; or nil, a
 * message, errno. */
int streams_pipe(lua_State *L);

#endif
