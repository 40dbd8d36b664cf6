/* The options of a process that are one byte or one text on the wire (proto.h), each
 * described once: the parent checks and writes them by these rows, and a template reads
 * and checks them. Options of another form (changes of the environment, standard streams,
 * a tree, sizes) are written out in options_encode.c and options_parse.c. */
#ifndef WIRE_OPTION_ROWS_H
#define WIRE_OPTION_ROWS_H

/* The commands that an option may be in. */
enum option_in { IN_SETUP = 1, IN_FORK = 2, IN_BOTH = IN_SETUP | IN_FORK };

/* X(OPT_..., kind, commands, limit, field of mf_options, field of struct options). The
 * limit of a byte is its greatest value, that of a text its fewest bytes. Zero and NULL are
 * the defaults, and are not sent. */
/* clang-format off */
#define OPTION_ROWS(X)                                                                   \
  X(NAME,         text, IN_BOTH,  0,                   name,         name)               \
  X(CWD,          text, IN_BOTH,  0,                   cwd,          cwd)                \
  X(SESSION,      byte, IN_BOTH,  1,                   new_session,  session)            \
  X(LEASH,        byte, IN_BOTH,  MF_LEASH_KEEP,       leash,        leash)              \
  X(HANDLES,      byte, IN_BOTH,  MF_HANDLES_CLOSE,    handles,      handles)            \
  X(DUMPABLE,     byte, IN_BOTH,  MF_DUMPABLE_NO,      dumpable,     dumpable)           \
  X(THREAD,       byte, IN_FORK,  MF_ISOLATION_THREAD, isolation,    thread)             \
  X(LAZY,         byte, IN_FORK,  MF_LAZY_TRY,         lazy,         lazy)               \
  X(PATH,         text, IN_SETUP, 0,                   lua_path,     path)               \
  X(CPATH,        text, IN_SETUP, 0,                   lua_cpath,    cpath)              \
  X(GC,           byte, IN_SETUP, MF_GC_STOP,          gc,           gc)                 \
  X(IMAGE,        text, IN_SETUP, 1,                   image,        image)              \
  X(IMAGE_VERIFY, byte, IN_SETUP, 1,                   image_verify, image_verify)
/* clang-format on */

#endif
