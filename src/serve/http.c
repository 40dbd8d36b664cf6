/* moonfork.http_core: the HTTP/1.1 side of a worker. One thread, one epoll: idle and slow
 * connections cost memory and nothing else; a request that is whole is given to Lua, one
 * at a time. The syntax is http_parser's (libhttp-parser 2.9), whose strict mode refuses
 * what two servers might read differently.
 *
 *   phase     waits for                      time limit        then
 *   HEAD      the rest of a request's head   head_s            408, closed
 *   BODY      the rest of its body           body_s a read     408, closed
 *   WRITING   a client that does not read    write_s a write   closed
 *   IDLE      the next request               idle_s            closed
 *   LINGER    the rest of a refused request  2 s               closed; a close with
 * unread input would take the answer back
 *
 * Each phase has a list in the order of its deadlines, because its limit is constant. */
#include <http_parser.h>

#include "serve/module.h"

#include <arpa/inet.h>
#include <errno.h>
#include <lauxlib.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
  READ_SIZE = 65536,
  HEAD_MAX = 65536, /* bytes of request line and headers: 431 */
  FIELDS_MAX = 128, /* headers of a request: 431 */
  OUT_LOW = 65536,  /* bytes that wait for the client before an iterator is asked on */
  EVENTS = 64,
  ACCEPTS = 16 /* at one wake-up, so that other workers have some too */
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

/* ---- texts ---- */

static int reserve(struct text *t, size_t more) {
  if (t->room - t->size >= more)
    return 0;
  size_t room = t->room ? t->room * 2 : 512;
  while (room - t->size < more)
    room *= 2;
  char *data = realloc(t->data, room);
  if (!data)
    return -ENOMEM;
  t->data = data;
  t->room = room;
  return 0;
}

static int append(struct text *t, const char *data, size_t size) {
  if (reserve(t, size) < 0)
    return -ENOMEM;
  if (size > 0)
    memcpy(t->data + t->size, data, size);
  t->size += size;
  return 0;
}

/* What was large once need not stay so. */
static void empty(struct text *t) {
  t->size = 0;
  if (t->room > READ_SIZE) {
    free(t->data);
    *t = (struct text){0};
  }
}

/* ---- phases ---- */

static uint64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void unlink_connection(struct connection *c) {
  c->next->prev = c->prev;
  c->prev->next = c->next;
}

static void enter(struct connection *c, enum phase phase) {
  struct connection *head = &c->http->queues[phase].head;
  if (c->next)
    unlink_connection(c);
  c->phase = phase;
  c->deadline = c->http->now + c->http->limits[phase];
  c->next = head;
  c->prev = head->prev;
  head->prev->next = c;
  head->prev = c;
}

static void watch(struct connection *c, int writable) {
  if (c->writable == (unsigned)writable)
    return;
  struct epoll_event event = {.events = writable ? EPOLLOUT : EPOLLIN, .data.ptr = c};
  c->writable = (unsigned)writable;
  epoll_ctl(c->http->epoll, EPOLL_CTL_MOD, c->fd, &event);
}

static void drop(struct connection *c) {
  struct http *h = c->http;
  unlink_connection(c);
  if (c->is_ready)
    for (struct connection **at = &h->ready; *at; at = &(*at)->ready_next)
      if (*at == c) {
        *at = c->ready_next;
        if (h->ready_end == &c->ready_next)
          h->ready_end = at;
        break;
      }
  luaL_unref(h->L, LUA_REGISTRYINDEX, c->iterator);
  close(c->fd);
  free(c->input.data);
  free(c->strings.data);
  free(c->body.data);
  free(c->out.data);
  free(c);
  h->nconnections--;
}

/* ---- requests ---- */

static struct connection *of(http_parser *parser) {
  return parser->data;
}

static int keep_string(struct connection *c, const char *at, size_t size) {
  if (c->strings.size + size > HEAD_MAX) {
    c->error = 431;
    return 1;
  }
  return append(&c->strings, at, size) < 0;
}

static int on_url(http_parser *parser, const char *at, size_t size) {
  struct connection *c = of(parser);
  c->target_size += size;
  int rc = keep_string(c, at, size);
  if (c->error)
    c->error = 414;
  return rc;
}

static int on_field(http_parser *parser, const char *at, size_t size) {
  struct connection *c = of(parser);
  if (c->in_value || c->nfields == 0) {
    if (c->nfields == FIELDS_MAX) {
      c->error = 431;
      return 1;
    }
    c->fields[c->nfields++] = (struct field){.name = c->strings.size};
    c->in_value = 0;
  }
  c->fields[c->nfields - 1].name_size += size;
  return keep_string(c, at, size);
}

static int on_value(http_parser *parser, const char *at, size_t size) {
  struct connection *c = of(parser);
  struct field *f = &c->fields[c->nfields - 1];
  if (!c->in_value)
    f->value = c->strings.size;
  c->in_value = 1;
  f->value_size += size;
  return keep_string(c, at, size);
}

static const struct field *find(const struct connection *c, const char *name) {
  size_t size = strlen(name);
  for (int i = 0; i < c->nfields; i++)
    if (c->fields[i].name_size == size &&
        strncasecmp(c->strings.data + c->fields[i].name, name, size) == 0)
      return &c->fields[i];
  return NULL;
}

static int is_value(const struct connection *c, const struct field *f,
                    const char *value) {
  return f->value_size == strlen(value) &&
         strncasecmp(c->strings.data + f->value, value, f->value_size) == 0;
}

static int is_token(const char *text, size_t size) {
  for (size_t i = 0; i < size; i++) {
    unsigned char ch = (unsigned char)text[i];
    if (ch <= ' ' || ch >= 127 || strchr("()<>@,;:\\\"/[]?={}", ch))
      return 0;
  }
  return size > 0;
}

static int on_head(http_parser *parser) {
  struct connection *c = of(parser);
  const struct field *expect = find(c, "expect");
  int has_body = parser->flags & F_CHUNKED ||
                 (parser->content_length != 0 && parser->content_length != UINT64_MAX);
  for (int i = 0; i < c->nfields; i++)
    if (!is_token(c->strings.data + c->fields[i].name, c->fields[i].name_size)) {
      c->error = 400; /* http_parser lets blanks pass */
      return -1;
    }
  if (parser->http_major != 1) {
    c->error = 505;
    return -1;
  }
  if (parser->method == HTTP_CONNECT) {
    c->error = 501;
    return -1;
  }
  if (parser->http_minor >= 1 && !find(c, "host")) {
    c->error = 400;
    return -1;
  }
  if (parser->content_length != UINT64_MAX &&
      parser->content_length > c->http->body_max) {
    c->error = 413;
    return -1;
  }
  if (expect && parser->http_minor >= 1) {
    if (!is_value(c, expect, "100-continue")) {
      c->error = 417;
      return -1;
    }
    if (has_body) {
      static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
      if (append(&c->out, go_on, sizeof go_on - 1) < 0)
        return -1;
    }
  }
  enter(c, BODY);
  return 0;
}

static int on_body(http_parser *parser, const char *at, size_t size) {
  struct connection *c = of(parser);
  if (c->body.size + size > c->http->body_max) {
    c->error = 413;
    return 1;
  }
  return append(&c->body, at, size) < 0;
}

static int on_whole(http_parser *parser) {
  of(parser)->whole = 1;
  http_parser_pause(parser, 1);
  return 0;
}

static const http_parser_settings settings = {
    .on_url = on_url,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_headers_complete = on_head,
    .on_body = on_body,
    .on_message_complete = on_whole,
};

static void next_request(struct connection *c) {
  empty(&c->strings);
  empty(&c->body);
  c->nfields = 0;
  c->target_size = 0;
  c->in_value = c->whole = c->answering = c->chunked = 0;
  c->error = 0;
}

/* ---- answers ---- */

static const char *date(struct http *h) {
  time_t now = time(NULL);
  if (now != h->date_at) {
    struct tm parts;
    h->date_at = now;
    gmtime_r(&now, &parts);
    static const char days[] = "SunMonTueWedThuFriSat";
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    snprintf(h->date, sizeof h->date, "%.3s, %02d %.3s %d %02d:%02d:%02d GMT",
             days + 3 * parts.tm_wday, parts.tm_mday, months + 3 * parts.tm_mon,
             parts.tm_year + 1900, parts.tm_hour, parts.tm_min, parts.tm_sec);
  }
  return h->date;
}

static const char *reason_of(int status) {
  const char *text = http_status_str((enum http_status)status);
  return strcmp(text, "<unknown>") == 0 ? "Status" : text;
}

static int add_format(struct text *t, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static int add_format(struct text *t, const char *format, ...) {
  char line[512];
  va_list list;
  va_start(list, format);
  int n = vsnprintf(line, sizeof line, format, list);
  va_end(list);
  return n < 0 || n >= (int)sizeof line ? -1 : append(t, line, (size_t)n);
}

/* A refusal of our own; the connection ends with it. */
static void refuse(struct connection *c, int status) {
  char body[128];
  int n = snprintf(body, sizeof body, "%d %s\n", status, reason_of(status));
  c->keep = 0;
  c->whole = c->answering = c->refused = 1;
  c->status = status;
  add_format(
      &c->out,
      "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
      "Connection: close\r\n\r\n",
      status, reason_of(status), date(c->http), n);
  if (c->parser.method != HTTP_HEAD)
    append(&c->out, body, (size_t)n);
}

static int is_field_value(const char *text, size_t size) {
  for (size_t i = 0; i < size; i++) {
    unsigned char ch = (unsigned char)text[i];
    if ((ch < ' ' && ch != '\t') || ch == 127)
      return 0;
  }
  return 1;
}

/* Set by us alone. */
static int is_ours(const char *name) {
  return strcasecmp(name, "content-length") == 0 || strcasecmp(name, "connection") == 0 ||
         strcasecmp(name, "transfer-encoding") == 0 || strcasecmp(name, "date") == 0;
}

/* The value on top of the stack. 0, or -1 with the reason pushed. */
static int add_header(struct http *h, struct text *head, const char *name,
                      size_t name_size) {
  lua_State *L = h->L;
  size_t size;
  const char *value = lua_tolstring(L, -1, &size);
  if (!is_token(name, name_size)) {
    lua_pushfstring(L, "'%s' is no name of a header", name);
    return -1;
  }
  if (!value || !is_field_value(value, size)) {
    lua_pushfstring(L, "the header '%s' has a value that can't be sent", name);
    return -1;
  }
  if (is_ours(name))
    return 0;
  if (append(head, name, name_size) < 0 || append(head, ": ", 2) < 0 ||
      append(head, value, size) < 0 || append(head, "\r\n", 2) < 0) {
    lua_pushliteral(L, "not enough memory");
    return -1;
  }
  return 0;
}

/* The table at `index`: name -> value, or a list of values. */
static int add_headers(struct http *h, struct text *head, int index) {
  lua_State *L = h->L;
  lua_pushnil(L);
  while (lua_next(L, index)) {
    if (lua_type(L, -2) != LUA_TSTRING) {
      lua_pushliteral(L, "names of headers are strings");
      return -1;
    }
    size_t size;
    const char *name = lua_tolstring(L, -2, &size);
    if (lua_istable(L, -1)) {
      lua_Integer n = luaL_len(L, -1);
      for (lua_Integer i = 1; i <= n; i++) {
        lua_geti(L, -1, i);
        if (add_header(h, head, name, size) < 0)
          return -1;
        lua_pop(L, 1);
      }
    } else if (add_header(h, head, name, size) < 0) {
      return -1;
    }
    lua_pop(L, 1);
  }
  return 0;
}

static void push_headers(struct connection *c) {
  lua_State *L = c->http->L;
  lua_createtable(L, 0, c->nfields);
  int table = lua_gettop(L);
  for (int i = 0; i < c->nfields; i++) {
    const struct field *f = &c->fields[i];
    char *name = c->strings.data + f->name;
    for (size_t k = 0; k < f->name_size; k++)
      if (name[k] >= 'A' && name[k] <= 'Z')
        name[k] = (char)(name[k] + 'a' - 'A');
    size_t size = f->value_size;
    while (size > 0 && (c->strings.data[f->value + size - 1] == ' ' ||
                        c->strings.data[f->value + size - 1] == '\t'))
      size--;
    lua_pushlstring(L, name, f->name_size);
    lua_pushvalue(L, -1);
    if (lua_rawget(L, table) == LUA_TSTRING) { /* several of a name are one list */
      int is_cookie = f->name_size == 6 && memcmp(name, "cookie", 6) == 0;
      lua_pushstring(L, is_cookie ? "; " : ", ");
      lua_pushlstring(L, c->strings.data + f->value, size);
      lua_concat(L, 3);
    } else {
      lua_pop(L, 1);
      lua_pushlstring(L, f->value_size ? c->strings.data + f->value : "", size);
    }
    lua_rawset(L, table);
  }
}

static void push_request(struct connection *c) {
  lua_State *L = c->http->L;
  const char *target = c->strings.data;
  const char *mark = memchr(target, '?', c->target_size);
  size_t path = mark ? (size_t)(mark - target) : c->target_size;
  lua_createtable(L, 0, 9);
  lua_pushstring(L, http_method_str((enum http_method)c->parser.method));
  lua_setfield(L, -2, "method");
  lua_pushlstring(L, target, c->target_size);
  lua_setfield(L, -2, "target");
  lua_pushlstring(L, target, path);
  lua_setfield(L, -2, "path");
  lua_pushlstring(L, mark ? mark + 1 : "", mark ? c->target_size - path - 1 : 0);
  lua_setfield(L, -2, "query");
  push_headers(c);
  lua_setfield(L, -2, "headers");
  lua_pushlstring(L, c->body.size ? c->body.data : "", c->body.size);
  lua_setfield(L, -2, "body");
  lua_pushstring(L, c->peer);
  lua_setfield(L, -2, "peer");
  lua_pushfstring(L, "%d.%d", c->parser.http_major, c->parser.http_minor);
  lua_setfield(L, -2, "version");
}

static int has_no_body(int status) {
  return status < 200 || status == 204 || status == 304;
}

/* What the function has returned lies on the stack from `base` on: status, headers, body.
 * 0, or -1 with the reason pushed. */
static int build_answer(struct connection *c, int base) {
  struct http *h = c->http;
  lua_State *L = h->L;
  int is_number, is_function = lua_isfunction(L, base + 2);
  int status = (int)lua_tointegerx(L, base, &is_number);
  size_t size = 0;
  const char *body = NULL;
  if (!is_number || status < 200 || status > 599) {
    lua_pushliteral(L, "the function did not return a status from 200 to 599");
    return -1;
  }
  if (!lua_istable(L, base + 1) && !lua_isnoneornil(L, base + 1)) {
    lua_pushliteral(L, "the second result, the headers, is no table");
    return -1;
  }
  if (!is_function && !lua_isnoneornil(L, base + 2) &&
      !(body = lua_tolstring(L, base + 2, &size))) {
    lua_pushliteral(L, "the third result, the body, is neither a string nor a function");
    return -1;
  }
  size_t before = c->out.size;
  if (h->draining)
    c->keep = 0;
  c->status = status;
  c->chunked = is_function && c->parser.http_minor >= 1 && !has_no_body(status);
  if (is_function && !c->chunked)
    c->keep = 0; /* its end is that of the connection */
  if (add_format(&c->out, "HTTP/1.1 %d %s\r\nDate: %s\r\n", status, reason_of(status),
                 date(h)) < 0)
    goto no_memory;
  if (lua_istable(L, base + 1) && add_headers(h, &c->out, base + 1) < 0) {
    c->out.size = before;
    return -1;
  }
  if (c->chunked)
    append(&c->out, "Transfer-Encoding: chunked\r\n", 28);
  else if (!is_function && !has_no_body(status))
    add_format(&c->out, "Content-Length: %zu\r\n", size);
  if (!c->keep)
    append(&c->out, "Connection: close\r\n", 19);
  else if (c->parser.http_minor == 0)
    append(&c->out, "Connection: keep-alive\r\n", 24);
  if (append(&c->out, "\r\n", 2) < 0)
    goto no_memory;
  if (c->parser.method == HTTP_HEAD || has_no_body(status)) {
    c->chunked = 0;
    return 0;
  }
  if (is_function) {
    lua_pushvalue(L, base + 2);
    c->iterator = luaL_ref(L, LUA_REGISTRYINDEX);
  } else if (append(&c->out, body, size) < 0) {
    goto no_memory;
  }
  return 0;
no_memory:
  c->out.size = before;
  lua_pushliteral(L, "not enough memory for the answer");
  return -1;
}

/* handler("request", request) -> status, headers, body, is the last of this worker;
 * handler("failed", text); handler("done", request, status, bytes) */
static void answer(struct connection *c) {
  struct http *h = c->http;
  lua_State *L = h->L;
  int base = lua_gettop(L);
  size_t before = c->out.size;
  c->answering = 1;
  c->keep = http_should_keep_alive(&c->parser) && !c->half_closed;
  luaL_checkstack(L, 16, NULL);
  push_request(c);
  int request = base + 1;
  lua_pushvalue(L, h->handler);
  lua_pushliteral(L, "request");
  lua_pushvalue(L, request);
  lua_call(L, 2, 4);
  if (lua_toboolean(L, request + 4))
    h->draining = 1;
  if (lua_isnil(L, request + 1)) {
    refuse(c, 500);
  } else if (build_answer(c, request + 1) < 0) {
    int reason = lua_gettop(L);
    lua_pushvalue(L, h->handler);
    lua_pushliteral(L, "failed");
    lua_pushvalue(L, reason);
    lua_call(L, 2, 0);
    refuse(c, 500);
  }
  lua_pushvalue(L, h->handler);
  lua_pushliteral(L, "done");
  lua_pushvalue(L, request);
  lua_pushinteger(L, c->status);
  lua_pushinteger(L, (lua_Integer)(c->out.size - before));
  lua_call(L, 4, 0);
  lua_settop(L, base);
}

/* The next piece of an answer that is a function. */
static void ask_iterator(struct connection *c) {
  struct http *h = c->http;
  lua_State *L = h->L;
  int base = lua_gettop(L);
  size_t size = 0;
  const char *piece = NULL;
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->iterator);
  int rc = lua_pcall(L, 0, 1, 0);
  if (rc == LUA_OK && !lua_isnil(L, -1))
    piece = lua_tolstring(L, -1, &size);
  if (rc != LUA_OK || (!piece && !lua_isnil(L, -1))) {
    if (rc == LUA_OK)
      lua_pushliteral(L, "a piece of the body is no string");
    int reason = lua_gettop(L);
    lua_pushvalue(L, h->handler);
    lua_pushliteral(L, "failed");
    lua_pushvalue(L, reason);
    lua_call(L, 2, 0);
    c->keep = 0; /* without the last chunk: the client sees that something is missing */
  } else if (piece) {
    if (size > 0) {
      if (c->chunked)
        add_format(&c->out, "%zx\r\n", size);
      if (append(&c->out, piece, size) < 0)
        c->keep = 0;
      if (c->chunked)
        append(&c->out, "\r\n", 2);
    }
    lua_settop(L, base);
    return;
  } else if (c->chunked) {
    append(&c->out, "0\r\n\r\n", 5);
  }
  luaL_unref(L, LUA_REGISTRYINDEX, c->iterator);
  c->iterator = LUA_NOREF;
  lua_settop(L, base);
}

/* ---- reading and writing ---- */

/* 1: all is written; 0: the client has to read first; -1: it has gone. */
static int write_out(struct connection *c) {
  while (c->out_at < c->out.size) {
    ssize_t n =
        send(c->fd, c->out.data + c->out_at, c->out.size - c->out_at, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return errno == EAGAIN ? 0 : -1;
    c->out_at += (size_t)n;
  }
  c->out_at = 0;
  empty(&c->out);
  return 1;
}

static void make_ready(struct connection *c) {
  if (c->is_ready)
    return;
  c->is_ready = 1;
  c->ready_next = NULL;
  *c->http->ready_end = c;
  c->http->ready_end = &c->ready_next;
}

static void end_connection(struct connection *c) {
  if (!c->refused) {
    drop(c);
    return;
  }
  shutdown(c->fd, SHUT_WR);
  enter(c, LINGER);
}

/* Writes what there is. 0: the connection is gone or waits for its client. */
static int go_on_writing(struct connection *c) {
  for (;;) {
    while (c->iterator != LUA_NOREF && c->out.size - c->out_at < OUT_LOW)
      ask_iterator(c);
    int rc = write_out(c);
    if (rc < 0) {
      drop(c);
      return 0;
    }
    if (rc == 0) {
      enter(c, WRITING); /* again, where its deadline has moved */
      watch(c, 1);
      return 0;
    }
    if (c->iterator == LUA_NOREF)
      break;
  }
  watch(c, 0);
  return 1;
}

/* The answer is out: the next request, or the end. */
static void finish(struct connection *c) {
  if (!c->keep || c->half_closed || c->http->draining) {
    end_connection(c);
    return;
  }
  next_request(c);
  http_parser_pause(&c->parser, 0);
  enter(c, c->input.size > 0 ? HEAD : IDLE);
  if (c->input.size > 0)
    make_ready(c);
}

static void parse(struct connection *c, const char *data, size_t size) {
  if (c->phase == IDLE)
    enter(c, HEAD);
  size_t used = http_parser_execute(&c->parser, &settings, data, size);
  enum http_errno error = HTTP_PARSER_ERRNO(&c->parser);
  if (c->whole) {
    if (used < size && append(&c->input, data + used, size - used) < 0)
      c->half_closed = 1;
    answer(c);
  } else if (error != HPE_OK && error != HPE_PAUSED) {
    refuse(c, c->error ? c->error : error == HPE_HEADER_OVERFLOW ? 431 : 400);
  } else if (c->parser.upgrade) {
    refuse(c, 501);
  } else if (c->out.size > c->out_at) { /* 100 Continue */
    if (!go_on_writing(c))
      return;
    enter(c, BODY);
    return;
  } else {
    if (c->phase == BODY)
      enter(c, BODY);
    return;
  }
  if (go_on_writing(c))
    finish(c);
}

/* Input that came behind the last request. */
static void parse_input(struct connection *c) {
  struct text input = c->input;
  c->input = (struct text){0};
  parse(c, input.data, input.size);
  free(input.data);
}

static void on_readable(struct connection *c) {
  struct http *h = c->http;
  ssize_t n = recv(c->fd, h->room, READ_SIZE, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  if (c->phase == LINGER) {
    if (n <= 0)
      drop(c);
    return;
  }
  if (n <= 0) {
    if (n == 0 && c->phase == HEAD && c->strings.size > 0) {
      refuse(c, 400);
      if (go_on_writing(c))
        finish(c);
      return;
    }
    drop(c);
    return;
  }
  parse(c, h->room, (size_t)n);
}

static void on_event(struct connection *c, uint32_t events) {
  if (c->writable) {
    if (events & (EPOLLERR | EPOLLHUP)) {
      drop(c);
      return;
    }
    if (!go_on_writing(c))
      return;
    if (c->answering)
      finish(c);
    else
      enter(c, BODY);
    return;
  }
  on_readable(c);
}

/* ---- the loop ---- */

static void name_peer(struct connection *c, const struct sockaddr_storage *address) {
  char host[INET6_ADDRSTRLEN];
  const struct sockaddr_in *v4 = (const void *)address;
  const struct sockaddr_in6 *v6 = (const void *)address;
  if (address->ss_family == AF_INET &&
      inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host))
    snprintf(c->peer, sizeof c->peer, "%s:%d", host, ntohs(v4->sin_port));
  else if (address->ss_family == AF_INET6 &&
           inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host))
    snprintf(c->peer, sizeof c->peer, "[%s]:%d", host, ntohs(v6->sin6_port));
}

static void accept_some(struct http *h, int listener) {
  for (int i = 0; i < ACCEPTS && h->nconnections < h->connections_max; i++) {
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof address;
    int fd = accept4(listener, (struct sockaddr *)&address, &size,
                     SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
      return;
    struct connection *c = calloc(1, sizeof *c);
    if (!c) {
      close(fd);
      return;
    }
    c->http = h;
    c->fd = fd;
    c->iterator = LUA_NOREF;
    http_parser_init(&c->parser, HTTP_REQUEST);
    c->parser.data = c;
    name_peer(c, &address);
    if (address.ss_family != AF_UNIX)
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    h->nconnections++;
    enter(c, HEAD);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(h->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
      drop(c);
      return;
    }
    on_readable(c); /* most have sent their request by now */
  }
}

static void watch_listeners(struct http *h, int wanted) {
  if (h->accepting == wanted)
    return;
  h->accepting = wanted;
  for (int i = 0; i < h->nlisteners; i++) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE,
                                .data.ptr = &h->listeners[i]};
    epoll_ctl(h->epoll, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, h->listeners[i], &event);
  }
}

/* Closes what has waited for too long. Gives the milliseconds to the next deadline; -1:
 * none. */
static int look_at_deadlines(struct http *h) {
  uint64_t first = UINT64_MAX;
  h->now = now_ms();
  for (int p = 0; p < PHASES; p++) {
    struct connection *head = &h->queues[p].head;
    while (head->next != head && head->next->deadline <= h->now) {
      struct connection *c = head->next;
      if (p == BODY || (p == HEAD && c->strings.size > 0)) {
        refuse(c, 408);
        if (go_on_writing(c))
          end_connection(c);
      } else {
        drop(c);
      }
    }
    if (head->next != head && head->next->deadline < first)
      first = head->next->deadline;
  }
  if (first == UINT64_MAX)
    return -1;
  return first - h->now > 60000 ? 60000 : (int)(first - h->now) + 1;
}

/* Idle connections end now; those at a request, after it. */
static void start_drain(struct http *h) {
  h->draining = 1;
  watch_listeners(h, 0);
  struct connection *idle = &h->queues[IDLE].head;
  while (idle->next != idle)
    drop(idle->next);
  struct connection *head = &h->queues[HEAD].head;
  for (struct connection *c = head->next, *next; c != head; c = next) {
    next = c->next;
    if (c->strings.size == 0 && c->input.size == 0) /* nothing of a request has come */
      drop(c);
  }
}

static int is_told_to_drain(const struct http *h) {
  char text[64];
  ssize_t n = recv(h->control, text, sizeof text, MSG_DONTWAIT);
  return n >= 0 || (errno != EAGAIN && errno != EINTR);
}

/* tick() -> this worker shall end (a signal has come) */
static void call_tick(struct http *h) {
  lua_pushvalue(h->L, h->tick);
  lua_call(h->L, 0, 1);
  h->draining |= lua_toboolean(h->L, -1);
  lua_pop(h->L, 1);
}

static void turn(struct http *h) {
  struct epoll_event events[EVENTS];
  int timeout = look_at_deadlines(h);
  int n = epoll_wait(h->epoll, events, EVENTS, h->ready ? 0 : timeout);
  h->now = now_ms();
  if (n < 0)
    call_tick(h);
  for (int i = 0; i < n; i++) {
    void *what = events[i].data.ptr;
    if (what == &h->control) {
      h->draining |= is_told_to_drain(h);
    } else if (what >= (void *)h->listeners &&
               what < (void *)(h->listeners + h->nlisteners)) {
      if (!h->draining)
        accept_some(h, *(int *)what);
    } else {
      on_event(what, events[i].events);
      h->now = now_ms();
    }
  }
  struct connection *ready = h->ready; /* one request of each, then the others */
  h->ready = NULL;
  h->ready_end = &h->ready;
  while (ready) {
    struct connection *c = ready;
    ready = c->ready_next;
    c->is_ready = 0;
    parse_input(c);
    h->now = now_ms();
  }
}

static uint64_t milliseconds(lua_State *L, int table, const char *name, double usual) {
  lua_getfield(L, table, name);
  double seconds = luaL_optnumber(L, -1, usual);
  lua_pop(L, 1);
  return seconds > 0 && seconds < 1e9 ? (uint64_t)(seconds * 1000) : 1;
}

static size_t size_option(lua_State *L, int table, const char *name, size_t usual) {
  lua_getfield(L, table, name);
  lua_Integer size = luaL_optinteger(L, -1, (lua_Integer)usual);
  lua_pop(L, 1);
  return size > 0 ? (size_t)size : 1;
}

/* serve(control, {listener...}, handler, tick, options): until it is told to drain and
 * the last request is answered. Errors of handler and tick are raised. options: head,
 * body, write, idle (seconds), body_max (bytes), connections_max. The descriptors stay
 * the caller's. */
static int l_serve(lua_State *L) {
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TFUNCTION);
  luaL_checktype(L, 4, LUA_TFUNCTION);
  luaL_checktype(L, 5, LUA_TTABLE);
  struct http *h = lua_newuserdatauv(L, sizeof *h, 0);
  memset(h, 0, offsetof(struct http, room));
  h->L = L;
  h->handler = 3;
  h->tick = 4;
  h->control = (int)luaL_checkinteger(L, 1);
  h->ready_end = &h->ready;
  h->limits[HEAD] = milliseconds(L, 5, "head", 10);
  h->limits[BODY] = milliseconds(L, 5, "body", 30);
  h->limits[WRITING] = milliseconds(L, 5, "write", 30);
  h->limits[IDLE] = milliseconds(L, 5, "idle", 60);
  h->limits[LINGER] = 2000;
  h->body_max = size_option(L, 5, "body_max", 8 << 20);
  h->connections_max = size_option(L, 5, "connections_max", 10000);
  for (int p = 0; p < PHASES; p++)
    h->queues[p].head.next = h->queues[p].head.prev = &h->queues[p].head;
  lua_Integer n = luaL_len(L, 2);
  luaL_argcheck(L, n <= (lua_Integer)(sizeof h->listeners / sizeof *h->listeners), 2,
                "too many listeners");
  for (lua_Integer i = 1; i <= n; i++) {
    lua_geti(L, 2, i);
    h->listeners[h->nlisteners++] = (int)luaL_checkinteger(L, -1);
    lua_pop(L, 1);
  }
  http_parser_set_max_header_size(HEAD_MAX);
  h->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (h->epoll < 0)
    return serve_fail(L, errno, "epoll");
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = &h->control};
  epoll_ctl(h->epoll, EPOLL_CTL_ADD, h->control, &event);
  watch_listeners(h, 1);
  while (!h->draining || h->nconnections > 0) {
    turn(h);
    if (h->draining)
      start_drain(h);
    else
      watch_listeners(h, h->nconnections < h->connections_max);
  }
  close(h->epoll);
  return 0;
}

__attribute__((visibility("default"))) int luaopen_moonfork_http_core(lua_State *L);

int luaopen_moonfork_http_core(lua_State *L) {
  lua_newtable(L);
  lua_pushcfunction(L, l_serve);
  lua_setfield(L, -2, "serve");
  return 1;
}
