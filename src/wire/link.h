/* The frames between the two ends of a link: the near end, which the parent starts, and
 * the agent, behind any command. doc/remote-protocol.md says what they mean, and who may
 * send which. The parent and its near end use the same frames. Runs in the parent, the
 * near end and the agent. */
#ifndef WIRE_LINK_H
#define WIRE_LINK_H

#include "base/buf.h"

/* The agent's first bytes. Whatever came before them is not its own. */
#define LINK_MARKER "\001MOONFORK-AGENT\n"

enum {
  LINK_VERSION = 5,
  LINK_MARKER_SIZE = sizeof LINK_MARKER - 1,
  LINK_HEADER_SIZE = 12,
  LINK_DATA_MAX = 192 * 1024, /* bytes of a stream in one DATA */
  LINK_FDS_MAX = 253,         /* descriptors that came with them */
  LINK_DESCRIPTOR_SIZE = 12,
  LINK_BODY_MAX = LINK_DATA_MAX + LINK_FDS_MAX * LINK_DESCRIPTOR_SIZE,
  LINK_CHANNELS_MAX = 64 * 1024,
  LINK_TABLES_MAX = 16 * 1024,
  LINK_RECORDS_MAX = 1024,
  LINK_TEXT_MAX = 8 * 1024, /* of a reason, of last words, of what a command printed */
  LINK_WINDOW = 256 * 1024,
  LINK_WINDOW_MIN = 4 * 1024,
  LINK_WINDOW_MAX = 64 * 1024 * 1024,
  LINK_BEAT_MS = 1000,
  LINK_BEAT_MIN_MS = 10,
  LINK_BEAT_MAX_MS = 3600 * 1000,
  LINK_BEATS = 3 /* so many without a sign end it */
};

/* The near end's own are 1 mod 4, those of the program's FORKs 3 mod 4, the agent's even. */
enum link_channel {
  LINK_CHANNEL_ROOT = 1,   /* the control socket of the far template */
  LINK_CHANNEL_OUTPUT = 2, /* what the processes there print */
  LINK_NEAR_FIRST = 5,
  LINK_EARLY_FIRST = 3,
  LINK_AGENT_FIRST = 4
};

enum link_type {
  LINK_HELLO = 1,   /* u16 version, u16 0, str build; near end: u32 beat, u32 window */
  LINK_DATA,        /* ndescriptors descriptors, then bytes of the channel */
  LINK_WINDOW_MORE, /* u32: so many bytes more may come on the channel */
  LINK_END,         /* of the channel: no byte follows in this direction */
  LINK_RESET,       /* of the channel: nobody reads what comes in the other one */
  LINK_KILL,        /* u32 serial, u32 signal, u32 1: its whole tree; signal 0: an end is
                       waited for */
  LINK_TREE,        /* u32 table, u32 count, u32 index: who is born there leads a group */
  LINK_DROP,        /* u32 table: nobody is born there any more */
  LINK_BORN,        /* u32 table, u32 index, u32 serial, u32 pid */
  LINK_GONE,        /* u32 serial, u32 status, u64 utime, stime (us), maxrss, str words */
  LINK_PING,        /* nothing: I am here */
  LINK_MEASURE,     /* u32 serial, u32 tag */
  LINK_MEASURED,    /* u32 tag, u32 errno, u64 pss, uss, rss, shared */
  LINK_FAILED,      /* str: why the agent, or the near end, ends */
  LINK_MEMORY,      /* u32 record, u32 offset, bytes: what a worker left in a record */
  LINK_RECORD_STOP, /* u32 record: its worker is to begin nothing more */
  LINK_RECORD_DROP, /* u32 record: it is not used any more */
  LINK_RETURNED,    /* u32 serial, u64 id of its FORK: so stands in its slot */
  LINK_CLONE,       /* u32 table, u32 index: of its slot, a command to the far template: a
                       FORK, whose socket is the channel */
  LINK_LAST = LINK_CLONE,
  /* between the parent and its near end only */
  LINK_START = 32, /* u32 beat, u32 window, str build; comes with the root's control
                      socket, and perhaps with the memory of link_page.h */
  LINK_PRINTED,    /* what the command printed before the greeting */
  LINK_FORK,       /* u32 token, then the body of a LINK_CLONE: see link_fork */
  LINK_UNWANTED,   /* u32 token: nobody wants that socket any more */
  LINK_SOCKET,     /* u32 token; comes with it: somebody over there has written */
  LINK_ENDED,  /* u32 token: it has ended without a byte, or is not wanted, and was never
                    * made */
  LINK_INPUT,  /* comes with the write end of the command's input (link_early.h) */
  LINK_DIRECT, /* u32 place, u32 ticket, u64 cookie of a socket: link_direct */
  LINK_SIDE_LAST = LINK_DIRECT
};

/* What a descriptor becomes at the other end. */
enum link_kind {
  LINK_REFUSED = 0, /* a socket whose other end is closed: it can't be carried */
  LINK_STREAM = 1,  /* a socket, carried by the channel */
  LINK_PIPE_READ,   /* the read end of a pipe, likewise; and the write end */
  LINK_PIPE_WRITE,
  LINK_LEASH,  /* the read end of the agent's leash */
  LINK_BIRTHS, /* memory for a step of slots (slot_layout.h): its table, count */
  LINK_WORDS,
  LINK_RECORD, /* memory for the record of a chunk of calls (chunk.h): its number */
  LINK_KIND_LAST = LINK_RECORD
};

struct link_descriptor {
  uint32_t id; /* channel or table */
  uint32_t count;
  unsigned kind;
};

struct link_frame {
  unsigned type, ndescriptors;
  uint32_t channel, length;
  const unsigned char *body; /* borrowed */
};

#define LINK_STATUS_UNKNOWN 0xffffffffu /* of GONE: nobody can have it */

/* The serial of the far template; those of BORN count from 1. */
enum { LINK_SERIAL_ROOT = 0, LINK_TABLE_NONE = 0 };

/* What the parent passes to its near end in the place of a step's memory: a file of this.
 */
#define LINK_TICKET_MAGIC 0x544b464du /* "MFKT" */
struct link_ticket {
  uint32_t magic, kind, table, count;
};

/* The next frame in `in`: 0, MF_AGAIN: its bytes are not all there, or -EPROTO. It is
 * consumed with link_done. last: the largest type that may come. */
int link_next(const struct buf *in, unsigned last, struct link_frame *ret);
size_t link_body_length(const unsigned char *header);
void link_done(struct buf *in, const struct link_frame *f);
/* The i-th descriptor of a DATA; its bytes. */
void link_descriptor(const struct link_frame *f, unsigned i, struct link_descriptor *ret);
const unsigned char *link_bytes(const struct link_frame *f, size_t *ret_n);

void link_put_header(unsigned char *at, unsigned type, unsigned ndescriptors,
                     uint32_t channel, uint32_t length);
void link_put_descriptor(unsigned char *at, const struct link_descriptor *d);
/* Appends a frame whose body is n numbers of 32 bits. 0 or a negated errno. */
int link_put(struct buf *out, unsigned type, uint32_t channel, const uint32_t *numbers,
             unsigned n);
/* The same with bytes for a body. */
int link_put_bytes(struct buf *out, unsigned type, const void *body, size_t length);
/* A frame whose body is one str, cut to LINK_TEXT_MAX. */
int link_put_text(struct buf *out, unsigned type, const char *text, size_t length);
/* What somebody behind a command has printed or said is shown to people: each control
 * character but newline and tab becomes a '?', so that no terminal obeys it. ret may be
 * text. */
void link_copy_shown(char *ret, const void *text, size_t n);
/* Of such a frame: the text, as it can be shown, cut to size - 1 bytes and with a NUL
 * behind it. 0 or -EPROTO. */
int link_read_text(const struct link_frame *f, char *ret, size_t size);
/* n numbers from the body; 0 or -EPROTO: it is not exactly that. */
int link_numbers(const struct link_frame *f, uint32_t *ret, unsigned n);

/* A fork whose socket is made when somebody needs it: the command says one descriptor,
 * which is that socket's other end. So many may be under way, of so many bytes at most:
 * they fit into the smallest window. */
enum { LINK_FORKS_MAX = 16, LINK_FORK_MAX = 160 };
struct link_fork {
  uint32_t token;               /* of LINK_FORK */
  uint32_t table, index;        /* the slot of the new process */
  const unsigned char *command; /* borrowed */
  size_t n;
};
int link_put_fork(struct buf *out, const struct link_fork *fork, const void *body,
                  size_t nbody); /* which follows the command */
int link_put_clone(struct buf *out, uint32_t channel, const struct link_fork *fork,
                   const void *body, size_t nbody);
/* 0 or -EPROTO. */
int link_read_fork(const struct link_frame *f, struct link_fork *ret);

struct link_birth {
  uint32_t table, index, serial, pid;
};
int link_read_birth(const struct link_frame *f, struct link_birth *ret);
int link_put_returned(struct buf *out, uint32_t serial, uint64_t id);
int link_read_returned(const struct link_frame *f, uint32_t *ret_serial,
                       uint64_t *ret_id);

struct link_end {
  uint32_t serial, status;
  uint64_t utime_us, stime_us, maxrss_bytes;
  const char *words; /* borrowed; or NULL */
  size_t nwords;
};
int link_put_end(struct buf *out, const struct link_end *e);
int link_read_end(const struct link_frame *f, struct link_end *ret);

struct link_hello {
  unsigned version;
  char build[64];
  uint32_t beat_ms, window; /* of the near end; 0 where the agent says it */
};
/* LINK_START. Another version may say anything: build is "" where it can't be read. */
int link_put_start(struct buf *out, uint32_t beat_ms, uint32_t window);
void link_read_start(const struct link_frame *f, struct link_hello *ret);
/* beat_ms 0: the agent's. */
int link_put_hello(struct buf *out, uint32_t beat_ms, uint32_t window);
/* 0, or -EPROTO: it is none of any version, or its numbers are not within bounds. */
int link_read_hello(const struct link_frame *f, int of_agent, struct link_hello *ret);

#endif
