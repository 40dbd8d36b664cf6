/* The memory of a Lua 5.4 state as 5.4.3 and later 5.4 versions lay it out, described
 * here in words of our own, as far as pointers and the sizes of blocks need it. Nothing
 * of it is taken on trust: selfcheck.h compares it with the Lua that runs. It is the only
 * description; walk54.h goes through it. Where Lua 5.5 differs, layout55.h has it.
 *
 * A name in comments is what the Lua manual or its C API calls the thing. */
#ifndef IMAGE_LAYOUT54_H
#define IMAGE_LAYOUT54_H

#include <lua.h>
#include <stddef.h>
#include <stdint.h>

#if LUA_VERSION_NUM != 504
#define l54_string l55_string
#define l54_table l55_table
#define l54_frame l55_frame
#define l54_thread l55_thread
#define l54_global l55_global
#define l54_main_block l55_main_block
#endif

/* Tags: the type's number in four bits, the variant above; bit 6 says that the value is a
 * pointer to an object. */
enum l54_tag {
  L54_LIGHT = LUA_TLIGHTUSERDATA,
  L54_SHORT_STRING = LUA_TSTRING,
  L54_LONG_STRING = LUA_TSTRING | 1 << 4,
  L54_TABLE = LUA_TTABLE,
  L54_LUA_FUNCTION = LUA_TFUNCTION,
  L54_LIGHT_C_FUNCTION = LUA_TFUNCTION | 1 << 4,
  L54_C_CLOSURE = LUA_TFUNCTION | 2 << 4,
  L54_USERDATA = LUA_TUSERDATA,
  L54_THREAD = LUA_TTHREAD,
  L54_UPVALUE = LUA_NUMTYPES,
  L54_PROTOTYPE = LUA_NUMTYPES + 1,
  L54_DEAD_KEY = LUA_NUMTYPES + 2,
  L54_IS_OBJECT = 1 << 6,
};

enum {
  L54_EVENTS = 25,     /* metamethods, from __index to __close */
  L54_CACHE = 53 * 2,  /* strings that C code has given as literals */
  L54_SPARE_SLOTS = 5, /* behind the end of each stack */
#if LUA_VERSION_NUM == 504
  L54_ARRAY_IS_LARGER = 1 << 7, /* in a table's flags: its array has a power of two */
  L54_FRAME_OF_C = 1 << 1,      /* in a frame's state: it is a C function's */
#endif
  L54_WHITES = 3 << 3, /* in an object's mark */
};

union l54_word {
  void *pointer;
  lua_Integer integer;
  lua_Number number;
};

struct l54_cell { /* a Lua value */
  union l54_word word;
  unsigned char tag;
};

#define L54_HEAD                                                                         \
  struct l54_object *next;                                                               \
  unsigned char type;                                                                    \
  unsigned char mark

struct l54_object {
  L54_HEAD;
};

#if LUA_VERSION_NUM == 504
struct l54_string {
  L54_HEAD;
  unsigned char reserved;
  unsigned char short_length;
  unsigned hash;
  union {
    size_t length;            /* of a long one */
    struct l54_string *chain; /* of a short one: the next with this hash */
  } as;
  char bytes[];
};
#endif

struct l54_table;

struct l54_userdata {
  L54_HEAD;
  unsigned short nvalues; /* user values */
  size_t nbytes;
  struct l54_table *metatable;
  struct l54_object
      *gray; /* only with user values, which follow where any type may lie */
};

struct l54_function; /* a prototype */

struct l54_upvalue_name {
  struct l54_string *name;
  unsigned char where[3];
};

struct l54_line {
  int instruction, line;
};

struct l54_local {
  struct l54_string *name;
  int from, to;
};

struct l54_function {
  L54_HEAD;
  unsigned char nparameters, is_vararg, nregisters;
  int nupvalues, nconstants, ncode, nlineinfo, ninner, nlocals, nlines, first_line,
      last_line;
  struct l54_cell *constants;
  uint32_t *code;
  struct l54_function **inner;
  struct l54_upvalue_name *upvalues;
  signed char *lineinfo;
  struct l54_line *lines;
  struct l54_local *locals;
  struct l54_string *source;
  struct l54_object *gray;
};

struct l54_upvalue {
  L54_HEAD;
  unsigned char reserved;
  struct l54_cell *at; /* in a stack while it is open, else `own` */
  union {
    struct {
      struct l54_upvalue *next;
      struct l54_upvalue **previous;
    } open;
    struct l54_cell own;
  } as;
};

struct l54_lua_closure {
  L54_HEAD;
  unsigned char nupvalues;
  struct l54_object *gray;
  struct l54_function *function;
  struct l54_upvalue *upvalues[];
};

struct l54_c_closure {
  L54_HEAD;
  unsigned char nupvalues;
  struct l54_object *gray;
  lua_CFunction function;
  struct l54_cell upvalues[];
};

struct l54_entry { /* of a table's hash part; its first 16 bytes are the value */
  union l54_word word;
  unsigned char tag;
  unsigned char key_tag;
  int next;
  union l54_word key;
};

#if LUA_VERSION_NUM == 504
struct l54_table {
  L54_HEAD;
  unsigned char flags;
  unsigned char log2_entries;
  unsigned narray; /* or less: L54_ARRAY_IS_LARGER */
  struct l54_cell *array;
  struct l54_entry *entries;
  struct l54_entry
      *last_free; /* NULL: the entries are Lua's dummy, or ours; may be their end */
  struct l54_table *metatable;
  struct l54_object *gray;
};
#endif

#if LUA_VERSION_NUM == 504
struct l54_frame { /* a call */
  struct l54_cell *function;
  struct l54_cell *top;
  struct l54_frame *previous, *next;
  union {
    struct {
      const uint32_t *next_instruction;
      int trap, nextra;
    } lua;
    struct {
      lua_KFunction continuation;
      ptrdiff_t old_handler;
      lua_KContext context;
    } c;
  } as;
  int of_now;
  short nresults;
  unsigned short state;
};

struct l54_global;

struct l54_thread { /* what a lua_State * points to; the extra space lies before it */
  L54_HEAD;
  unsigned char status;
  unsigned char allow_hook;
  unsigned short nframes;
  struct l54_cell *top;
  struct l54_global *global;
  struct l54_frame *frame;
  struct l54_cell *stack_end; /* the spare slots follow */
  struct l54_cell *stack;
  struct l54_upvalue *open_upvalues;
  struct l54_cell *to_be_closed;
  struct l54_object *gray;
  struct l54_thread *with_upvalues; /* the next one; itself: it is in no list */
  void *jump;
  struct l54_frame first_frame;
  lua_Hook hook;
  ptrdiff_t handler;
  uint32_t ncalls;
  int old_instruction, base_hook_count, hook_count;
  int hook_mask;
};

struct l54_global {
  lua_Alloc allocate;
  void *allocate_data;
  ptrdiff_t nbytes, debt;
  size_t estimate, last_atomic;
  struct {
    struct l54_string **chains;
    int nstrings, nchains;
  } strings;
  struct l54_cell registry;
  struct l54_cell nil;
  unsigned seed;
  unsigned char white, phase, kind, numbers[8];
  struct l54_object *all;
  struct l54_object **sweep; /* the field that holds the next object to sweep */
  struct l54_object *with_finaliser;
  struct l54_object *gray, *gray_again, *weak, *ephemeron, *all_weak;
  struct l54_object *to_finalise;
  struct l54_object *fixed;
  struct l54_object *survival, *old1, *really_old, *first_old1;
  struct l54_object *finaliser_survival, *finaliser_old1, *finaliser_really_old;
  struct l54_thread *with_upvalues;
  lua_CFunction panic;
  struct l54_thread *main;
  struct l54_string *out_of_memory;
  struct l54_string *event_names[L54_EVENTS];
  struct l54_table *metatables[LUA_NUMTYPES];
  struct l54_string *cache[L54_CACHE];
  lua_WarnFunction warn;
  void *warn_data;
};

/* The main thread and the global record are one block. */
struct l54_main_block {
  struct {
    unsigned char extra[LUA_EXTRASPACE];
    struct l54_thread thread;
  } main;
  struct l54_global global;
};

static inline struct l54_thread *l54_main(struct l54_global *g) {
  return g->main;
}

static inline void *l54_start_of_main(lua_State *L) {
  return (char *)L - LUA_EXTRASPACE;
}

static inline int l54_has_entries(const struct l54_table *t) {
  return t->last_free != NULL;
}
#else
#include "image/layout55.h"
#endif

static inline struct l54_thread *l54_thread(lua_State *L) {
  return (struct l54_thread *)L;
}

#if LUA_VERSION_NUM == 504
/* Elements of a table's array, which is larger than narray when the bit says so. */
static inline size_t l54_array_size(const struct l54_table *t) {
  size_t n = t->narray, power = 1;
  if (!(t->flags & L54_ARRAY_IS_LARGER) || !(n & (n - 1)))
    return n;
  while (power < n)
    power *= 2;
  return power;
}
#endif

/* What Lua aligns for: luaconf.h says it. */
union l54_any {
  LUAI_MAXALIGN;
};

static inline size_t l54_align(size_t n) {
  return (n + _Alignof(union l54_any) - 1) & ~(_Alignof(union l54_any) - 1);
}

static inline struct l54_cell *l54_user_values(struct l54_userdata *u) {
  return (struct l54_cell *)(void *)((char *)u + l54_align(sizeof *u));
}

/* Where the contents of a userdata begin. */
static inline size_t l54_userdata_head(const struct l54_userdata *u) {
  return u->nvalues ? l54_align(sizeof *u) + u->nvalues * sizeof(struct l54_cell)
                    : l54_align(offsetof(struct l54_userdata, gray));
}

/* Whether the collector has found that nothing needs the object: it waits to be freed,
 * and what it refers to may be free already. */
static inline int l54_is_dead(const struct l54_object *o, const struct l54_global *g) {
  return o->mark & (g->white ^ L54_WHITES) & L54_WHITES;
}

#endif
