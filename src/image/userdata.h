/* Which userdata a copy of an interpreter may have: the one policy of images, of clones
 * in threads and of pseudo-processes. A copy has the same bytes. That is enough for plain
 * memory; it is not for an object that stands for something outside of the interpreter,
 * which two copies would free twice, or a new process would not have. So:
 *
 *   for an image alone: its metatable has            what that says
 *   __moonfork_save
 *   the type is known (the table in userdata.c)       what its row says
 *   its metatable has __clone                         its author vouches for the bytes,
 *                                                     and __clone(object) is called in
 *                                                     the copy
 *   it has a finaliser (__gc), not the library's      refused: nobody vouches for it
 *   a word of it leads to memory elsewhere            refused
 *   else                                              it is bytes
 *
 * Nothing here knows names of objects or makes messages: who asks does. */
#ifndef IMAGE_USERDATA_H
#define IMAGE_USERDATA_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

enum userdata_use { USERDATA_IMAGE, USERDATA_THREAD, USERDATA_PSEUDO, USERDATA_USES };

enum userdata_socket { USERDATA_NO_SOCKET, USERDATA_SOCKET_OPEN, USERDATA_SOCKET_CLOSED };

struct userdata_question {
  enum userdata_use use;
  const void *base; /* of the state's memory */
  size_t nbytes;
  /* Whether the userdata at the index is a socket of the library's. NULL: there are none.
   */
  enum userdata_socket (*socket)(lua_State *L, int index);
  int closes_sockets; /* open ones are listed, and are closed in the copy */
};

struct userdata_list { /* offsets of objects from the base */
  uint64_t *sockets;   /* who copies has to renew them, or to close them */
  uint64_t *hooks;     /* with __clone in their metatables */
  size_t nsockets, nhooks;
};

struct userdata_refusal {
  void *object;
  const char *why; /* "it has a finaliser ...": static, or text */
  char text[160];  /* what the object has said itself */
};

/* Looks at all userdata of the state; main: its main thread. Returns 0 and a list for
 * userdata_free, -ENOMEM, or -EPERM and the first that may not be copied. May raise
 * (memory), and then leaves the list as it is at the time. The self-check has passed. */
int userdata_look(lua_State *main, const struct userdata_question *q,
                  struct userdata_list *ret, struct userdata_refusal *ret_refusal);
void userdata_free(struct userdata_list *u);

/* In the copy, at base: pushes a table of the n objects, so that none is collected while
 * others' hooks run. May raise. */
void userdata_push_hooks(lua_State *L, char *base, const uint64_t *hooks, size_t n);
/* Calls __clone(object) of the i-th of the table at the index. Raises what it raises. */
void userdata_call_hook(lua_State *L, int index, size_t i);

#endif
