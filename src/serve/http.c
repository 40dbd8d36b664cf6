/* moonfork.http_core: the HTTP/1.1 side of a worker. One thread, one epoll: idle and slow
 * connections cost memory and nothing else; a request that is whole is given to Lua, one
 * at a time. The syntax is http_parser's (libhttp-parser 2.9); where lines end, and what two
 * servers might read differently, is looked at besides (http_lines.c, http_request.c).
 *
 *   phase     waits for                      time limit        then
 *   HEAD      the rest of a request's head   head_s            408, closed
 *   BODY      the rest of its body           body_s a read     408, closed
 *   FUNCTION  a function in a coroutine      timeout           503, closed
 *   WRITING   a client that does not read    write_s a write   closed
 *   IDLE      the next request               idle_s            closed
 *   LINGER    the rest of a refused request  2 s               closed
 *
 * (A close with unread input would take the answer back: so LINGER reads it.)
 *
 * Each phase has a list in the order of its deadlines, because its limit is constant. */
#include "serve/http.h"

#include "serve/module.h"

#include <arpa/inet.h>
#include <errno.h>
#include <lauxlib.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
  EVENTS = 64,
  DRAIN_IDLE_MS = 1000,
  PAUSE_MS = 100, /* without accepting, where descriptors or memory are used up */
  ACCEPTS = 16    /* at one wake-up, so that other workers have some too */
};

/* ---- phases ---- */

static uint64_t now_ms(void) {
  return (uint64_t)row_now() / 1000;
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

/* NOTHING: not even that the client has gone, which would be told again and again. */
static void watch(struct connection *c, enum interest interest) {
  static const uint32_t events[] = {
      [INPUT] = EPOLLIN, [OUTPUT] = EPOLLOUT, [NOTHING] = EPOLLONESHOT};
  if (c->interest == interest)
    return;
  struct epoll_event event = {.events = events[interest], .data.ptr = c};
  c->interest = interest;
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
  if (c->suspended || c->stalled) {
    lua_pushvalue(h->L, SLOT_FORGET);
    lua_pushlightuserdata(h->L, c);
    lua_call(h->L, 1, 0);
  }
  luaL_unref(h->L, LUA_REGISTRYINDEX, c->iterator);
  close(c->fd);
  free(c->input.data);
  free(c->strings.data);
  h->bodies -= c->body.size;
  free(c->body.data);
  free(c->out.data);
  free(c);
  h->nconnections--;
  row_set(h->row, ROW_OPEN, (int64_t)h->nconnections);
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
  text_empty(&c->out);
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

static int has_unread_input(const struct connection *c) {
  int n = 0;
  return c->refused || (ioctl(c->fd, FIONREAD, &n) == 0 && n > 0);
}

static void end_connection(struct connection *c) {
  if (!has_unread_input(c)) {
    drop(c);
    return;
  }
  shutdown(c->fd, SHUT_WR);
  enter(c, LINGER);
}

/* Writes what there is. 0: the connection is gone or waits for its client. */
static int go_on_writing(struct connection *c) {
  for (;;) {
    while (c->iterator != LUA_NOREF && !c->stalled && c->out.size - c->out_at < OUT_LOW)
      answer_continue(c);
    int rc = write_out(c);
    if (rc < 0) {
      drop(c);
      return 0;
    }
    if (rc == 0) {
      enter(c, WRITING); /* again, where its deadline has moved */
      watch(c, OUTPUT);
      return 0;
    }
    if (c->iterator == LUA_NOREF)
      break;
    if (c->stalled) {
      watch(c, INPUT);
      enter(c, FUNCTION);
      return 0;
    }
  }
  watch(c, INPUT);
  return 1;
}

/* The answer is out: the next request, or the end. */
static void finish(struct connection *c) {
  if (!c->keep || c->half_closed) {
    end_connection(c);
    return;
  }
  request_reset(c);
  enter(c, c->input.size > 0 ? HEAD : IDLE);
  if (c->input.size > 0)
    make_ready(c);
}

/* What there was to write is written: what comes next. */
static void go_on(struct connection *c) {
  if (c->suspended)
    enter(c, FUNCTION);
  else if (c->answering)
    finish(c);
  else /* it was 100 Continue, or answers to the requests before this one */
    enter(c, c->has_head ? BODY : c->strings.size > 0 ? HEAD : IDLE);
}

/* Whether the next request of this client can be answered with the same write. */
static int has_room_for_more(const struct connection *c) {
  return c->keep && !c->suspended && !c->half_closed && !c->http->draining &&
         c->iterator == LUA_NOREF && c->out.size < OUT_LOW;
}

/* As http_parser_execute, up to the end of a request; lines that are broken set c->error. */
static size_t execute(struct connection *c, const char *data, size_t size) {
  size_t at = 0;
  while (at < size && !c->whole && !c->error) {
    int is_broken = 0;
    size_t n = lines_pass(&c->lines, data + at, size - at, &is_broken), taken = 0;
    if (n > 0)
      taken = http_parser_execute(&c->parser, &http_settings, data + at, n);
    at += taken;
    enum http_errno error = HTTP_PARSER_ERRNO(&c->parser);
    if (error != HPE_OK && error != HPE_PAUSED)
      break;
    if (!c->whole && (is_broken || taken < n))
      c->error = 400;
  }
  return at;
}

/* Answers the requests that are whole, and keeps the rest for later where the client has
 * sent more than a batch or has to read first. `is_kept`: the bytes are c->input's. */
static void parse(struct connection *c, const char *data, size_t size, int is_kept) {
  size_t at = 0;
  int n = 0;
  if (c->phase == IDLE)
    enter(c, HEAD);
  do {
    if (c->whole)
      request_reset(c);
    at += execute(c, data + at, size - at);
    if (c->whole)
      answer_request(c);
  } while (c->whole && at < size && ++n < BATCH && has_room_for_more(c));
  enum http_errno error = HTTP_PARSER_ERRNO(&c->parser);
  int is_answered = c->whole;
  if (is_answered) {
    if (is_kept)
      c->input_at += at;
    else if (at < size && text_append(&c->input, data + at, size - at) < 0)
      c->half_closed = 1;
  } else if (c->error || (error != HPE_OK && error != HPE_PAUSED)) {
    answer_refuse(c, c->error ? c->error : error == HPE_HEADER_OVERFLOW ? 431 : 400);
    is_answered = 1;
  }
  if (!is_answered || c->input_at == c->input.size) {
    text_empty(&c->input);
    c->input_at = 0;
  }
  if (!is_answered && c->out.size == c->out_at) {
    if (c->has_head)
      enter(c, BODY);
    return;
  }
  if (go_on_writing(c))
    go_on(c);
}

/* Input that came behind the last request. */
static void parse_input(struct connection *c) {
  parse(c, c->input.data + c->input_at, c->input.size - c->input_at, 1);
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
      answer_refuse(c, 400);
      if (go_on_writing(c))
        finish(c);
      return;
    }
    drop(c);
    return;
  }
  parse(c, h->room, (size_t)n, 0);
}

static void on_event(struct connection *c, uint32_t events) {
  if (c->phase == FUNCTION) { /* what comes can wait, and so can the end */
    watch(c, NOTHING);
    return;
  }
  if (c->interest != OUTPUT) {
    if (!c->is_ready) /* else what has come before, or its end, is for later */
      on_readable(c);
    return;
  }
  if (events & (EPOLLERR | EPOLLHUP))
    drop(c);
  else if (go_on_writing(c))
    go_on(c);
}

/* ---- functions in coroutines ---- */

/* Gives them a turn, and sends the answers of those that have ended. */
static void turn_coroutines(struct http *h, int is_ready) {
  lua_State *L = h->L;
  int base = lua_gettop(L) + 1;
  lua_pushvalue(L, SLOT_COROUTINES);
  lua_pushboolean(L, is_ready);
  lua_call(L, 1, 1);
  h->coroutines_timeout = (int)lua_tointeger(L, base);
  for (;;) {
    lua_settop(L, base - 1);
    lua_pushvalue(L, SLOT_RESULT);
    lua_call(L, 0, 6);
    struct connection *c = lua_touserdata(L, base);
    if (!c)
      break;
    h->now = now_ms();
    if (c->stalled)
      c->stalled = 0;
    else
      answer_result(c, base);
    if (go_on_writing(c))
      go_on(c);
  }
  lua_settop(L, base - 1);
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
  for (int i = 0; i < ACCEPTS && !h->draining && h->nconnections < h->connections_max;
       i++) {
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof address;
    int fd = accept4(listener, (struct sockaddr *)&address, &size,
                     SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct connection *c = fd < 0 ? NULL : calloc(1, sizeof *c);
    if (!c) {
      int error = fd < 0 ? errno : ENOMEM;
      if (fd >= 0)
        close(fd);
      if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM)
        h->accept_at = h->now + PAUSE_MS;
      return; /* else another worker was faster */
    }
    c->http = h;
    c->fd = fd;
    c->iterator = LUA_NOREF;
    http_parser_init(&c->parser, HTTP_REQUEST);
    c->parser.data = c;
    lines_init(&c->lines);
    name_peer(c, &address);
    if (address.ss_family != AF_UNIX)
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    h->nconnections++;
    row_set(h->row, ROW_OPEN, (int64_t)h->nconnections);
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
      if (p == FUNCTION) {
        answer_late(c);
        if (go_on_writing(c))
          end_connection(c);
      } else if (p == BODY || (p == HEAD && c->strings.size > 0)) {
        answer_refuse(c, 408);
        if (go_on_writing(c))
          end_connection(c);
      } else if (p == IDLE && has_unread_input(c)) {
        enter(c, HEAD); /* its next request has come in the last moment */
        on_readable(c);
      } else {
        drop(c);
      }
    }
    if (head->next != head && head->next->deadline < first)
      first = head->next->deadline;
  }
  if (h->accept_at > h->now && h->accept_at < first)
    first = h->accept_at;
  if (first == UINT64_MAX)
    return -1;
  return first - h->now > 60000 ? 60000 : (int)(first - h->now) + 1;
}

/* Those at a request, or at their first, go on until it is answered. An idle one is
 * closed when it has been so for a while: a client that is active sends its next request,
 * and is told with the answer that the connection ends. Closed at once, it would see a
 * request that gets no answer. */
static void start_drain(struct http *h) {
  if (h->is_drained)
    return;
  h->is_drained = 1;
  watch_listeners(h, 0);
  if (h->limits[IDLE] <= DRAIN_IDLE_MS)
    return;
  struct connection *idle = &h->queues[IDLE].head;
  for (struct connection *c = idle->next; c != idle; c = c->next)
    c->deadline -= h->limits[IDLE] - DRAIN_IDLE_MS;
  h->limits[IDLE] = DRAIN_IDLE_MS;
}

static int is_told_to_drain(const struct http *h) {
  char text[64];
  ssize_t n = recv(h->control, text, sizeof text, MSG_DONTWAIT);
  return n >= 0 || (errno != EAGAIN && errno != EINTR);
}

static void call_tick(struct http *h) {
  lua_pushvalue(h->L, SLOT_TICK);
  lua_call(h->L, 0, 1);
  h->draining |= lua_toboolean(h->L, -1);
  lua_pop(h->L, 1);
}

static void turn(struct http *h) {
  struct epoll_event events[EVENTS];
  int timeout = look_at_deadlines(h), is_turn_due, is_turn_ready = 0;
  if (h->draining && h->nconnections == 0)
    return; /* the last one was late */
  if (h->coroutines_timeout >= 0 && (timeout < 0 || h->coroutines_timeout < timeout))
    timeout = h->coroutines_timeout;
  int n = epoll_wait(h->epoll, events, EVENTS, h->ready ? 0 : timeout);
  h->now = now_ms();
  is_turn_due = h->coroutines_timeout >= 0 && n == 0;
  if (n < 0)
    call_tick(h);
  for (int i = 0; i < n; i++) {
    void *what = events[i].data.ptr;
    if (what == &h->control) {
      h->draining |= is_told_to_drain(h);
    } else if (what == &h->coroutines) {
      is_turn_due = is_turn_ready = 1;
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
  if (h->coroutines >= 0 && (is_turn_due || h->has_called || n < 0))
    turn_coroutines(h, is_turn_ready || n < 0);
  h->has_called = 0;
}

static uint64_t milliseconds(lua_State *L, const char *name, double usual) {
  lua_getfield(L, SLOT_OPTIONS, name);
  double seconds = luaL_optnumber(L, -1, usual);
  lua_pop(L, 1);
  return seconds > 0 && seconds < 1e9 ? (uint64_t)(seconds * 1000) : 1;
}

static lua_Integer integer(lua_State *L, const char *name, lua_Integer usual) {
  lua_getfield(L, SLOT_OPTIONS, name);
  lua_Integer n = luaL_optinteger(L, -1, usual);
  lua_pop(L, 1);
  return n;
}

static size_t size_option(lua_State *L, const char *name, lua_Integer usual) {
  lua_Integer size = integer(L, name, usual);
  return size > 0 ? (size_t)size : 1;
}

static void read_options(struct http *h) {
  lua_State *L = h->L;
  h->limits[HEAD] = milliseconds(L, "head", 10);
  h->limits[BODY] = milliseconds(L, "body", 30);
  h->limits[FUNCTION] = milliseconds(L, "timeout", 1e9 - 1);
  h->limits[WRITING] = milliseconds(L, "write", 30);
  h->limits[IDLE] = milliseconds(L, "idle", 60);
  h->limits[LINGER] = 2000;
  h->body_max = size_option(L, "body_max", 8 << 20);
  h->bodies_max = size_option(L, "bodies_max", 256 << 20);
  h->connections_max = size_option(L, "connections", 10000);
  h->left = integer(L, "max_requests", -1);
  h->control = (int)integer(L, "control", -1);
  h->coroutines = (int)integer(L, "coroutines_fd", -1);
  h->coroutines_timeout = -1;
  lua_getfield(L, SLOT_OPTIONS, "row");
  h->row = lua_touserdata(L, -1);
  luaL_argcheck(L, h->row, 1, "a row of a board expected");
  lua_getfield(L, SLOT_OPTIONS, "listeners");
  lua_Integer n = luaL_len(L, -1);
  luaL_argcheck(L, n <= (lua_Integer)(sizeof h->listeners / sizeof *h->listeners), 1,
                "too many listeners");
  for (lua_Integer i = 1; i <= n; i++) {
    lua_geti(L, -1, i);
    h->listeners[h->nlisteners++] = (int)luaL_checkinteger(L, -1);
    lua_pop(L, 1);
  }
  lua_settop(L, SLOT_GET);
}

/* Fills the slots; the struct is a userdata in its own. */
static struct http *prepare(lua_State *L) {
  static const char *const functions[] = {"call", "traceback",  "failed", "done",
                                          "tick", "coroutines", "result", "forget"};
  static const char *const strings[] = {"method",  "target", "path", "query",
                                        "headers", "body",   "peer", "version",
                                        "",        "1.1",    "1.0",  "GET"};
  luaL_checktype(L, SLOT_OPTIONS, LUA_TTABLE);
  lua_settop(L, SLOT_OPTIONS);
  luaL_checkstack(L, SLOT_GET + LUA_MINSTACK, NULL);
  for (int i = 0; i < SLOT_HTTP - SLOT_CALL; i++)
    lua_getfield(L, SLOT_OPTIONS, functions[i]);
  struct http *h = lua_newuserdatauv(L, sizeof *h, 0);
  memset(h, 0, offsetof(struct http, room));
  for (int i = 0; i <= SLOT_GET - SLOT_METHOD; i++)
    lua_pushstring(L, strings[i]);
  h->L = L;
  h->ready_end = &h->ready;
  for (int p = 0; p < PHASES; p++)
    h->queues[p].head.next = h->queues[p].head.prev = &h->queues[p].head;
  read_options(h);
  return h;
}

/* serve{...}: until it is told to drain and the last request is answered. Errors of tick
 * are raised. Functions: see enum slot. control, listeners: descriptors, which stay the
 * caller's; row: board:row(); max_requests; head, body, write, idle: seconds; body_max:
 * bytes; connections: how many at the same time. */
static int l_serve(lua_State *L) {
  struct http *h = prepare(L);
  http_parser_set_max_header_size(HEAD_MAX);
  h->epoll = epoll_create1(EPOLL_CLOEXEC);
  if (h->epoll < 0)
    return serve_fail(L, errno, "epoll");
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = &h->control};
  epoll_ctl(h->epoll, EPOLL_CTL_ADD, h->control, &event);
  if (h->coroutines >= 0) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &h->coroutines};
    epoll_ctl(h->epoll, EPOLL_CTL_ADD, h->coroutines, &e);
  }
  watch_listeners(h, 1);
  while (!h->draining || h->nconnections > 0) {
    turn(h);
    if (h->draining)
      start_drain(h);
    else
      watch_listeners(h,
                      h->nconnections < h->connections_max && h->accept_at <= now_ms());
  }
  close(h->epoll);
  return 0;
}

__attribute__((visibility("default"))) int luaopen_moonfork_http_core(lua_State *L);

int luaopen_moonfork_http_core(lua_State *L) {
  lua_newtable(L);
  lua_pushcfunction(L, l_serve);
  lua_setfield(L, -2, "serve");
  lua_pushliteral(L, MOONFORK_VERSION);
  lua_setfield(L, -2, "version");
  return 1;
}
