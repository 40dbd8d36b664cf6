/* What the files of moonfork.http_core share (http.c says how it works). */
#ifndef SERVE_HTTP_H
#define SERVE_HTTP_H

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
};

enum phase { HEAD, BODY, WRITING, IDLE, LINGER, PHASES };

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
  struct text input;   /* read behind the request that is being answered */
  struct text strings; /* target and headers */
  struct text body;
  struct text out;
  size_t out_at;
  struct field fields[FIELDS_MAX];
  int nfields, fd, iterator, status, error;
  enum phase phase;
  size_t target_size;
  unsigned in_value : 1;    /* of a header */
  unsigned has_head : 1;    /* all of it */
  unsigned whole : 1;       /* the request is */
  unsigned keep : 1;        /* the connection goes on after the answer */
  unsigned chunked : 1;     /* the answer is */
  unsigned is_ready : 1;    /* in the list of those with unread input */
  unsigned half_closed : 1; /* its client sends nothing more */
  unsigned writable : 1;    /* EPOLLOUT is asked for */
  unsigned answering : 1;
  unsigned refused : 1; /* there may be more input that nobody wants */
  char peer[INET6_ADDRSTRLEN + 16];
};

struct queue {
  struct connection head;
};

struct http {
  lua_State *L;
  int handler, tick; /* places on the stack */
  int epoll, control, nlisteners, listeners[64];
  int draining, accepting;
  size_t nconnections, connections_max, body_max;
  uint64_t limits[PHASES], now;
  struct queue queues[PHASES];
  struct connection *ready, **ready_end;
  char date[64];
  time_t date_at;
  char room[READ_SIZE];
};

/* http_text.c: 0, or a negative number where there is no memory. */
int text_append(struct text *t, const char *data, size_t size);
int text_add(struct text *t, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void text_empty(struct text *t);

/* http_request.c */
extern const http_parser_settings http_settings;
void request_reset(struct connection *c);
void request_push(struct connection *c); /* its table, on the Lua stack */
int http_is_token(const char *text, size_t size);

/* http_answer.c: into c->out */
void answer_refuse(struct connection *c, int status); /* the connection ends with it */
void answer_request(struct connection *c);
void answer_continue(
    struct connection *c); /* the next piece of a body that is a function */

#endif
