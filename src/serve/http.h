/* What the files of moonfork.http_core share (http.c says how it works). */
#ifndef SERVE_HTTP_H
#define SERVE_HTTP_H

#include "serve/row.h"

#include <http_parser.h>

#include <lua.h>
#include <netinet/in.h>
#include <stdint.h>
#include <time.h>

enum {
  READ_SIZE = 65536,
  HEAD_MAX = 65536, /* bytes of request line and headers: 431 */
  FIELDS_MAX = 128, /* headers of a request: 431 */
  OUT_LOW = 65536,  /* bytes that wait for the client before an iterator is asked on */
  BATCH = 32,       /* requests of one client that are answered by one write */
};

/* Places on the stack of serve(): what each request needs is not looked up by name. */
enum slot {
  SLOT_OPTIONS = 1,
  SLOT_CALL,       /* f(request) -> status, headers, body */
  SLOT_TRACEBACK,  /* the message handler of f */
  SLOT_FAILED,     /* failed(text) */
  SLOT_DONE,       /* done(request, status, bytes, microseconds), or nil */
  SLOT_TICK,       /* tick() -> this worker shall end (a signal has come) */
  SLOT_COROUTINES, /* turns those of functions, or nil; f(is_ready) -> ms, or -1 */
  SLOT_RESULT, /* result() -> connection, succeeded, request, status, headers, body; or
                      connection alone: its body has a piece */
  SLOT_FORGET, /* forget(connection, is_late): nobody waits for its function any more */
  SLOT_HTTP,
  SLOT_METHOD, /* from here: the names of the fields of a request */
  SLOT_TARGET,
  SLOT_PATH,
  SLOT_QUERY,
  SLOT_HEADERS,
  SLOT_BODY,
  SLOT_PEER,
  SLOT_VERSION,
  SLOT_EMPTY, /* from here: frequent values */
  SLOT_1_1,
  SLOT_1_0,
  SLOT_GET,
};

enum phase { HEAD, BODY, FUNCTION, WRITING, IDLE, LINGER, PHASES };

/* Where in a request its next byte is; http_lines.c has how one follows the other. */
enum lines_part {
  LINES_EMPTY,
  LINES_HEAD, /* or the trailer */
  LINES_END,
  LINES_BODY,
  LINES_CHUNK,
  LINES_DATA,
  LINES_BEHIND,
};

struct lines {
  enum lines_part part;
  int at_begin, after_cr; /* of a line */
  int is_request_line;
  unsigned
      nmatched;  /* bytes of its last word, which begins as that of the version does */
  uint64_t left; /* bytes of a chunk's data */
};

enum interest { INPUT, OUTPUT, NOTHING };

struct text {
  char *data;
  size_t size, room;
};

struct field {
  size_t name, name_size, value, value_size; /* places in `strings` */
};

struct connection {
  struct connection *next, *prev; /* of its phase */
  struct connection *ready_next;  /* has unread input */
  struct http *http;
  uint64_t deadline;
  http_parser parser;
  struct text input;   /* read behind the request that is being answered, ... */
  size_t input_at;     /* ... and not parsed yet, from here on */
  struct text strings; /* target and headers */
  struct text body;
  struct text out;
  size_t out_at;
  struct field fields[FIELDS_MAX];
  int nfields, nheaders; /* with those of the trailer, and without */
  int fd, iterator, status, error;
  struct lines lines;
  enum phase phase;
  enum interest interest;
  int64_t began; /* of a function that is suspended */
  size_t target_size;
  unsigned in_value : 1;    /* of a header */
  unsigned has_head : 1;    /* all of it */
  unsigned whole : 1;       /* the request is */
  unsigned keep : 1;        /* the connection goes on after the answer */
  unsigned chunked : 1;     /* the answer is */
  unsigned is_ready : 1;    /* in the list of those with unread input */
  unsigned half_closed : 1; /* its client sends nothing more */
  unsigned suspended : 1;   /* its function is, in a coroutine */
  unsigned stalled : 1;     /* the function of its body is */
  unsigned answering : 1;
  unsigned refused : 1; /* there may be more input that nobody wants */
  char peer[INET6_ADDRSTRLEN + 16];
};

struct queue {
  struct connection head;
};

struct http {
  lua_State *L;
  int64_t *row; /* of the worker, on the server's board */
  int64_t left; /* requests until this worker is replaced; negative: any number */
  int epoll, control, coroutines, nlisteners, listeners[64];
  int coroutines_timeout; /* milliseconds; negative: none */
  int draining, is_drained, accepting, has_called;
  uint64_t accept_at; /* descriptors were used up: not before this */
  size_t nconnections, connections_max, body_max;
  size_t bodies, bodies_max; /* bytes, of all connections together */
  uint64_t limits[PHASES], now;
  struct queue queues[PHASES];
  struct connection *ready, **ready_end;
  struct { /* the first two lines of the last answer, which often are those of the next */
    char text[160];
    size_t size;
    int status;
    time_t at;
  } head;
  char room[READ_SIZE];
};

/* http_text.c: 0, or a negative number where there is no memory. */
int text_append(struct text *t, const char *data, size_t size);
int text_add_number(struct text *t, size_t number, unsigned base);
void text_empty(struct text *t);

/* http_lines.c */
void lines_init(struct lines *l); /* of a request */
/* How many of these bytes the parser gets next; what is behind them breaks a line, or belongs to
 * the next part. */
size_t lines_pass(struct lines *l, const char *data, size_t size, int *ret_is_broken);
/* The parser has a head or the size of a chunk, and says what comes then. 0, or -1: it ends
 * elsewhere. */
int lines_set(struct lines *l, enum lines_part part, uint64_t size);

/* http_request.c */
extern const http_parser_settings http_settings;
void request_reset(struct connection *c);
void request_push(struct connection *c); /* its table, on the Lua stack */
int http_is_token(const char *text, size_t size);

/* http_answer.c: into c->out */
void answer_refuse(struct connection *c, int status); /* the connection ends with it */
void answer_request(struct connection *c);
/* What result() gave lies from `base` on: the answer of a suspended function. */
void answer_result(struct connection *c, int base);
void answer_late(struct connection *c);
void answer_continue(
    struct connection *c); /* the next piece of a body that is a function */

#endif
