/* Where Lua 5.5 lays its memory out in another way than 5.4: part of layout54.h, under
 * the same names, so that what works with them is written once. Long strings have their
 * characters elsewhere, arrays their tags behind the values, the last free entry of a
 * table lies before its entries, the main thread inside of the global record. */
#ifndef IMAGE_LAYOUT55_H
#define IMAGE_LAYOUT55_H

enum {
  L54_FRAME_OF_C = 1 << 15,
  L55_PARTS_ARE_FIXED =
      1 << 2,              /* in a prototype's is_vararg: code and lines are the host's */
  L55_NO_ENTRIES = 1 << 6, /* in a table's flags: they are Lua's dummy, or ours */
  L55_HAS_LAST_FREE = 3,   /* log2 of the number of entries, from which on */
};

struct l55_string {
  L54_HEAD;
  unsigned char reserved;
  signed char short_length; /* negative: it is long */
  unsigned hash;
  union {
    size_t length;            /* of a long one */
    struct l54_string *chain; /* of a short one: the next with this hash */
  } as;
  union {
    char short_bytes[1];
    char *bytes; /* of a long one: behind this, or elsewhere */
  } at;
  lua_Alloc free; /* only of one that is elsewhere and is freed */
  void *free_data;
};
enum l55_long { L55_HERE = -1, L55_FIXED = -2, L55_ELSEWHERE = -3 }; /* short_length */

struct l55_table {
  L54_HEAD;
  unsigned char flags;
  unsigned char log2_entries;
  unsigned narray;
  union l54_word *array; /* the values lie before it, the first at its end; behind it a
                            number and a tag for each */
  struct l54_entry *entries;
  struct l54_table *metatable;
  struct l54_object *gray;
};

struct l55_frame {
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
  uint32_t state;
};

struct l54_global;

struct l55_thread {
  L54_HEAD;
  unsigned char allow_hook;
  unsigned char status;
  struct l54_cell *top;
  struct l54_global *global;
  struct l54_frame *frame;
  struct l54_cell *stack_end;
  struct l54_cell *stack;
  struct l54_upvalue *open_upvalues;
  struct l54_cell *to_be_closed;
  struct l54_object *gray;
  struct l54_thread *with_upvalues;
  void *jump;
  struct l54_frame first_frame;
  lua_Hook hook;
  ptrdiff_t handler;
  uint32_t ncalls;
  int old_instruction, nframes, base_hook_count, hook_count;
  int hook_mask;
  int first_transferred, ntransferred;
};

struct l55_global {
  lua_Alloc allocate;
  void *allocate_data;
  ptrdiff_t nbytes, debt;
  ptrdiff_t marked, major_minor;
  struct {
    struct l54_string **chains;
    int nstrings, nchains;
  } strings;
  struct l54_cell registry;
  struct l54_cell nil;
  unsigned seed;
  unsigned char parameters[6], white, phase, kind, numbers[3];
  struct l54_object *all;
  struct l54_object **sweep;
  struct l54_object *with_finaliser;
  struct l54_object *gray, *gray_again, *weak, *ephemeron, *all_weak;
  struct l54_object *to_finalise;
  struct l54_object *fixed;
  struct l54_object *survival, *old1, *really_old, *first_old1;
  struct l54_object *finaliser_survival, *finaliser_old1, *finaliser_really_old;
  struct l54_thread *with_upvalues;
  lua_CFunction panic;
  struct l54_string *out_of_memory;
  struct l54_string *event_names[L54_EVENTS];
  struct l54_table *metatables[LUA_NUMTYPES];
  struct l54_string *cache[L54_CACHE];
  lua_WarnFunction warn;
  void *warn_data;
  struct {
    unsigned char extra[LUA_EXTRASPACE];
    struct l54_thread thread;
  } main;
};

/* The global record and the main thread are one block. */
struct l55_main_block {
  struct l54_global global;
};

static inline struct l54_thread *l54_main(struct l54_global *g) {
  return &g->main.thread;
}

static inline void *l54_start_of_main(lua_State *L) {
  return (char *)L - offsetof(struct l54_global, main.thread);
}

static inline int l54_has_entries(const struct l54_table *t) {
  return !(t->flags & L55_NO_ENTRIES);
}

#endif
