/* What a word of a Lua state leads to when it may lead outside of the state's memory. */
#ifndef IMAGE_KIND_H
#define IMAGE_KIND_H

enum image_kind {
  IMAGE_C_FUNCTION,   /* a light C function, in a value or a key */
  IMAGE_C_CLOSURE,    /* the function of a C closure */
  IMAGE_LIGHT,        /* light userdata */
  IMAGE_CONTINUATION, /* of a C function's frame; may be left over from an earlier frame
                       */
  IMAGE_CONTEXT, /* the number for it, which may be an address; may be left over, too */
  IMAGE_HOOK,    /* lua_sethook's */
  IMAGE_JUMP,    /* errorJmp: where errors go on the C stack */
  IMAGE_EXTRA,   /* the extra space before a lua_State */
  IMAGE_DUMMY_NODE, /* Lua's own node for empty tables */
  IMAGE_ALLOCATOR,  /* lua_Alloc */
  IMAGE_ALLOCATOR_DATA,
  IMAGE_PANIC,
  IMAGE_WARN,
  IMAGE_WARN_DATA,
  IMAGE_STREAM,       /* FILE * of a Lua file */
  IMAGE_STREAM_CLOSE, /* its function that closes */
  IMAGE_STRING,       /* Lua 5.5: characters that lie outside */
  IMAGE_FIXED_CODE,   /* Lua 5.5: code or lines of a function that lie outside */
  IMAGE_USERDATA,     /* a word of another userdata: an address or a number */
  IMAGE_KINDS
};

#endif
