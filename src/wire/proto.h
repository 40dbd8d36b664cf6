/* The protocol between a parent and a process: numbers, layouts, limits. Both sides and
 * the fuzzers include this page; doc/protocol.md is the same in words.
 *
 * A control socket is an AF_UNIX stream. Both directions carry frames:
 *
 *     u32 length | u8 type | u8 nfds | u16 flags | u64 id | body (length bytes)
 *
 * all little-endian. Descriptors travel with the first byte of their frame, in order,
 * and only from the parent to the process. FRAME_MORE: the body goes on in the next
 * frame, which has the same type (its id and nfds are 0); the last one has no FRAME_MORE.
 * A body in parts counts as one command.
 *
 * Each process counts the commands it has executed (a body in parts once; the inner
 * commands of a FORK count for the new process, which begins at 0).
 * DONE n says that the first n are executed.
 */
#ifndef WIRE_PROTO_H
#define WIRE_PROTO_H

/* Tables that are read as a page, and by test/check/protocol.lua. */
/* clang-format off */

#include <stdint.h>

#define PROTO_MAGIC 0x314b464du /* "MFK1" */
#define PROTO_VERSION 2 /* 1 did not say its build */

/* argv[1] of a template program: PROTO_BOOT_ARG "3,4": control socket, leash. */
#define PROTO_BOOT_ARG "--moonfork-template="
#define PROTO_MARK_ENV "MOONFORK_STARTED" /* parent/start/mark.h; taken away with the argument */
#define PROTO_BOOT_CONTROL_FD 3
#define PROTO_BOOT_LEASH_FD 4
#define PROTO_BOOT_INTAKE_FD 5 /* "3,4,5": of a template behind a link (below) */

enum { FRAME_HEADER_SIZE = 16 };
enum { FRAME_BODY_MAX = 256 * 1024 }; /* one frame; longer bodies go in parts */
enum { FRAME_FDS_MAX = 16 };          /* one frame; more handles go in more frames */
enum { FRAME_MORE = 1 };              /* the body goes on in the next frame */
enum { FRAME_BARE = 2 };              /* FORK of an agent: no socket comes with it (INTAKE_...) */
enum { FRAME_TELL = 4 };              /* and that its function has returned is told */
enum { FRAME_ASK = 8 };               /* FORK of an agent: may the next one be bare? */
enum { FRAME_ROW = 16 };              /* FORK to an agent: nobody waits for an end now */
#define PROTO_PAYLOAD_MAX (UINT64_C(4) << 30) /* a body in parts, and all arguments */

/* Parent to process. "str" is u32 length + bytes; PROTO_NO_STR as length: none. */
#define PROTO_NO_STR 0xffffffffu
enum command_type {
  CMD_SETUP = 1, /* id: owner pid. u32 magic, u16 version, u16 0, build, options. First
                    frame of an executed, early or template() process, and only there. The
                    answer is ANS_HELLO, followed by ANS_FAILED where version or build is
                    another than its own. build: str moonfork's version, str Lua's */
  CMD_REQUIRE = 2,   /* body: module name */
  CMD_EVAL = 3,      /* u32 argc, str code, argc str; perhaps str name of the chunk */
  CMD_ARG = 4,       /* body: one string argument */
  CMD_FD = 5,        /* nfds handle arguments, in order; no body */
  CMD_FORK = 6,      /* id: the new process's. options. fds: its socket, the life of
                        OPT_THREAD, the memory of OPT_SLOT_STEP, the leash of OPT_TREE,
                        stdio handles, those of the inner commands */
  CMD_RUN = 7,       /* body: function name */
  CMD_SETENV = 8,    /* str name, str value (none: unset) */
  CMD_CHDIR = 9,     /* body: path */
  CMD_LIMIT = 10,    /* n times: u32 enum proto_limit, u32 0, u64 value (~0: infinity) */
  CMD_SEAL = 11,     /* id: enum mf_seal_flags */
  CMD_TAKE_ARGS = 12,/* forget the arguments received so far */
  CMD_MEMORY = 13,   /* id 0: of this process; else of its clone with that id: u32 pid,
                        u32 slot (PROTO_NO_SLOT: none) */
  CMD_CLOSE = 14,    /* exit with 0 */
  CMD_WHO = 16,      /* id: pid of the owner from now on. Answer with ANS_HELLO. fds: the
                        read end of the owner's leash, or none */
  CMD_SET = 17,      /* str name (of a global; dotted: of a field), then a message of codec/codec.h
                        with one value. fds: those of its handles */
  CMD_SAVE = 18,     /* body: path of the image to be written. Answer with ANS_SAVED */
  CMD_LISTEN = 19,   /* fds: a listening socket of the owner's, for OPT_CONNECTION */
  CMD_LAST = CMD_LISTEN
};

/* Options of SETUP and FORK: u8 tag, u32 length, value; repeated. */
enum option_tag {
  OPT_NAME = 1,
  OPT_CWD = 2,
  OPT_ENV = 3,   /* "NAME=value" */
  OPT_UNENV = 4, /* "NAME" */
  OPT_STDIO = 5, /* u8[3]: enum mf_stdio_kind; a frame fd for each MF_STDIO_FD */
  OPT_SESSION = 6, /* u8 1: setsid */
  OPT_LEASH = 7,   /* u8 enum mf_leash */
  OPT_HANDLES = 8, /* u8 enum mf_handles */
  OPT_PATH = 9, OPT_CPATH = 10, /* package.path, package.cpath (SETUP) */
  OPT_GC = 11,                  /* u8 enum mf_gc (SETUP): the gc of the first seal */
  OPT_HEAP_RESERVE = 12,        /* u64 bytes (SETUP) */
  OPT_COMMANDS = 13, /* frames which the new process executes before it reads its socket
                        (FORK; last; only ARG, FD, RUN) */
  OPT_DUMPABLE = 14, /* u8 enum mf_dumpable */
  OPT_PIPE_LEASH = 15, /* u8 1: the thread that made this process may end before its process;
                          the pipe is the leash (SETUP) */
  OPT_SLOT = 16,       /* u32: the new process is to be a child of this one's parent, which
                          finds its pid and last words in that slot (FORK) */
  OPT_SLOT_STEP = 17,  /* u32 first, u32 count: slots of which the template may not know yet.
                          Two descriptors: births, then words (wire/slot_layout.h) (FORK) */
  OPT_INTRODUCE = 18,  /* u8 1: the new process says ANS_HELLO before anything else (FORK) */
  OPT_TREE = 19,       /* u8 enum mf_tree; without it a clone has what its template has. YES in a
                          FORK: with a descriptor, the read end of the owner's leash */
  OPT_IMAGE = 20,      /* path of an image that the interpreter begins as (SETUP) */
  OPT_IMAGE_VERIFY = 21, /* u8 1: compare all of its contents with their checksum (SETUP) */
  OPT_THREAD = 24,     /* u8 1: the new clone is a thread of the template's process. A descriptor
                          behind its socket: its life (wire/life.h) (FORK) */
  OPT_WORDS = 25,      /* u8 1: the last descriptor is memory for its last words, struct
                          last_words (wire/slot_layout.h) (SETUP) */
  OPT_LAZY = 26,       /* u8 enum mf_lazy, of such a clone (FORK) */
  OPT_CONNECTION = 27, /* u32: its socket is no descriptor of the frame, but the owner's
                          connection with that number, from 1 on, to the socket of the last
                          LISTEN (FORK) */
};
#define PROTO_NO_SLOT 0xffffffffu

enum proto_limit {
  LIMIT_CPU = 1, LIMIT_AS, LIMIT_NOFILE, LIMIT_CORE, LIMIT_FSIZE, LIMIT_NPROC,
  LIMIT_LAST = LIMIT_NPROC
};
/* X(part of LIMIT_... and of setrlimit's RLIMIT_..., name in the APIs) */
#define PROTO_LIMITS(X)                                                                  \
  X(CPU, "cpu") X(AS, "as") X(NOFILE, "nofile") X(CORE, "core") X(FSIZE, "fsize")        \
  X(NPROC, "nproc")

/* Process to parent. Never with descriptors. */
enum answer_type {
  ANS_HELLO = 64,   /* id: pid. u32 magic, u16 version, u16 HELLO_TREE or 0, u64 commands
                       executed, build. Magic and version are at the same place in every
                       version. The answer to SETUP and WHO, and the first word of a clone
                       that was asked to introduce itself, or that is no child of its
                       template's parent */
  ANS_DONE = 65,    /* id: n. no body. Sent, coalesced, before it waits for more; not for a
                       FORK with an inner RUN and a slot: *running* tells that one */
  ANS_FORK_FAILED = 67, /* id: of the FORK. failure (below) */
  ANS_FAILED = 68,  /* id: number of the failed command, from 1. failure. Nothing is executed
                       any more; the process exits with 1 */
  ANS_RUNNING = 69, /* id: pid. no body. The function is entered next, or nobody has seen yet that
                       it was; every byte after this frame is the user's */
  ANS_MEMORY = 71,  /* id: as asked. u32 errno, u32 0, u64 pss, uss, rss, shared, lua */
  ANS_SAVED = 72,   /* id: as asked. u32 enum failure_code or 0, u32 errno or 0, str why not (or
                       none) */
  ANS_LAST = ANS_SAVED
};

/* failure: u8 enum failure_code, u8 enum failure_phase, u16 0, u32 errno or 0,
 * str message, str traceback (or none); then, where a value was raised that is no string and
 * can be sent, str value: a message of codec/codec.h with this one value */
enum failure_code {
  FAILURE_REMOTE = 1, FAILURE_FORK = 2, FAILURE_LIMIT = 3, FAILURE_NOMEM = 4,
  FAILURE_INVAL = 5, FAILURE_UNSUPPORTED = 6, FAILURE_PROTOCOL = 7,
  FAILURE_CODE_LAST = FAILURE_PROTOCOL
};
enum failure_phase {
  PHASE_START = 1, PHASE_OPTION, PHASE_HOOK, PHASE_REQUIRE, PHASE_EVAL, PHASE_FUNCTION,
  PHASE_FORK, PHASE_LIMIT, PHASE_CHDIR, PHASE_SETENV, PHASE_SEAL, PHASE_ARGUMENT,
  PHASE_PROTOCOL, PHASE_SET,
  PHASE_LAST = PHASE_SET
};
/* The intake: a SOCK_SEQPACKET socket of a far template's (PROTO_BOOT_INTAKE_FD), whose other
   end the agent reads, with the kernel's word about who has written. Its clones of
   FRAME_BARE have it, too. A message is u8 enum intake_type, and what follows. */
enum intake_type {
  INTAKE_SOCKET = 1,   /* a clone's, with a descriptor: the other end of its socket */
  INTAKE_RETURNED = 2, /* a clone's: its function has returned without a socket */
  INTAKE_MAY = 3,      /* the template's. u64 id of the FORK with FRAME_ASK: the next may be bare */
  INTAKE_LAST = INTAKE_MAY
};

enum { HELLO_TREE = 1 };               /* OPT_TREE is in force */
enum { FAILURE_TEXT_MAX = 64 * 1024 }; /* message and traceback each are cut to this */
enum { FAILURE_VALUE_MAX = 120 * 1024 }; /* a longer value is left out: all is one frame */

/* clang-format on */

#endif
