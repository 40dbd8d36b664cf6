/* Services of a C module of its own: an object that has calls, as a pool has, behind the
 * same userdata. The module knows the binding by this header only, and is not linked with
 * it; the binding knows nothing of the module. Runs in the parent. */
#ifndef BIND_FOREIGN_H
#define BIND_FOREIGN_H

#include <lua.h>
#include <moonfork.h>
#include <stdio.h>

struct uv_loop_s;

/* The metatable of struct foreign_maker; the module registers it. */
#define BIND_FOREIGN "moonfork.module." MF_VERSION_STRING ".foreign"

/* A pool of the program's, as long as the object wants it. Functions return MF_ECLOSED
 * when the pool has ended. */
struct foreign_pool {
  void *pool; /* NULL: none was given */
  int (*call)(void *pool, const mf_message *m, const mf_call_options *o, mf_reply_cb cb,
              void *data, uint64_t *ret_id);
  int (*cancel)(void *pool, uint64_t id);
  int (*stats)(void *pool, mf_pool_info *info);
  void (*release)(void *pool); /* once, by the object, where it was made */
};

struct foreign_ops {
  /* As mf_pool_call and mf_pool_cancel. NULL: there are no calls. */
  int (*call)(void *object, const mf_message *m, const mf_call_options *o, mf_reply_cb cb,
              void *data, uint64_t *ret_id);
  int (*cancel)(void *object, uint64_t id);
  /* Why it refused that, where the code alone does not tell; or NULL. */
  const char *(*refusal)(void *object, int code, const mf_message *m);
  /* Begins what the table at idx asks for; it must not change the stack, and must not
   * raise. m: the packed values, if any. The reply comes once, from the loop. */
  int (*ask)(void *object, lua_State *L, int idx, const mf_message *m, mf_reply_cb cb,
             void *data, uint64_t *ret_id);
  void (*close)(void *object, void (*done)(void *data), void *data);
  void (*abort)(void *object); /* close is due */
  /* Its lines in the text of fork.dump; NULL: none. */
  void (*dump)(const void *object, FILE *out);
};

struct foreign_maker { /* a userdata with that metatable */
  const struct foreign_ops *ops;
  /* 0 and an object, or a code. on_event: for what nobody asked for; its messages are
   * values. */
  int (*open)(struct foreign_maker *maker, struct uv_loop_s *loop,
              const struct foreign_pool *pool, mf_event_cb on_event, void *event_data,
              void **ret);
  /* Why open gave that code, where it alone does not tell; or NULL. */
  const char *(*refusal)(int code);
};

#endif
