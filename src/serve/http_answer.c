/* Answers: what the function has returned, as bytes for the client. */
#include "serve/http.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const char *reason_of(int status) {
  const char *text = http_status_str((enum http_status)status);
  return strcmp(text, "<unknown>") == 0 ? "Status" : text;
}

/* The status line and Date: written anew when the second or the status is another. */
static int add_status_and_date(struct http *h, struct text *out, int status) {
  time_t now = time(NULL);
  if (now != h->head.at || status != h->head.status) {
    static const char days[] = "SunMonTueWedThuFriSat";
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    struct tm parts;
    gmtime_r(&now, &parts);
    int n = snprintf(h->head.text, sizeof h->head.text,
                     "HTTP/1.1 %d %s\r\nDate: %.3s, %02d %.3s %d %02d:%02d:%02d GMT\r\n",
                     status, reason_of(status), days + 3 * parts.tm_wday, parts.tm_mday,
                     months + 3 * parts.tm_mon, parts.tm_year + 1900, parts.tm_hour,
                     parts.tm_min, parts.tm_sec);
    h->head.size = (size_t)n;
    h->head.at = now;
    h->head.status = status;
  }
  return text_append(out, h->head.text, h->head.size);
}

static int add_literal(struct text *out, const char *text) {
  return text_append(out, text, strlen(text));
}

static int add_length(struct text *out, size_t size) {
  return add_literal(out, "Content-Length: ") < 0 || text_add_number(out, size, 10) < 0
             ? -1
             : add_literal(out, "\r\n");
}

/* A refusal of our own; the connection ends with it. */
void answer_refuse(struct connection *c, int status) {
  char body[128];
  int n = snprintf(body, sizeof body, "%d %s\n", status, reason_of(status));
  c->keep = 0;
  c->whole = c->answering = c->refused = 1;
  c->status = status;
  if (add_status_and_date(c->http, &c->out, status) < 0 ||
      add_literal(&c->out, "Content-Type: text/plain\r\n") < 0 ||
      add_length(&c->out, (size_t)n) < 0 ||
      add_literal(&c->out, "Connection: close\r\n\r\n") < 0)
    return; /* no memory: closed without an answer */
  if (c->parser.method != HTTP_HEAD || c->strings.size == 0) /* or nothing was read yet */
    text_append(&c->out, body, (size_t)n);
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
  if (!strchr("cCtTdD", name[0]))
    return 0;
  return strcasecmp(name, "content-length") == 0 || strcasecmp(name, "connection") == 0 ||
         strcasecmp(name, "transfer-encoding") == 0 || strcasecmp(name, "date") == 0;
}

/* The value on top of the stack. 0, or -1 with the reason pushed. */
static int add_header(struct http *h, struct text *head, const char *name,
                      size_t name_size) {
  lua_State *L = h->L;
  size_t size;
  const char *value = lua_tolstring(L, -1, &size);
  if (!http_is_token(name, name_size)) {
    lua_pushfstring(L, "'%s' is no name of a header", name);
    return -1;
  }
  if (!value || !is_field_value(value, size)) {
    lua_pushfstring(L, "the header '%s' has a value that can't be sent", name);
    return -1;
  }
  if (is_ours(name))
    return 0;
  if (text_append(head, name, name_size) < 0 || text_append(head, ": ", 2) < 0 ||
      text_append(head, value, size) < 0 || text_append(head, "\r\n", 2) < 0) {
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
  if (is_function && !c->chunked && !has_no_body(status))
    c->keep = 0; /* its end is that of the connection */
  if (add_status_and_date(h, &c->out, status) < 0)
    goto no_memory;
  if (lua_istable(L, base + 1) && add_headers(h, &c->out, base + 1) < 0) {
    c->out.size = before;
    return -1;
  }
  if (c->chunked && add_literal(&c->out, "Transfer-Encoding: chunked\r\n") < 0)
    goto no_memory;
  if (!is_function && !has_no_body(status) && add_length(&c->out, size) < 0)
    goto no_memory;
  if (!c->keep && add_literal(&c->out, "Connection: close\r\n") < 0)
    goto no_memory;
  if (c->keep && c->parser.http_minor == 0 &&
      add_literal(&c->out, "Connection: keep-alive\r\n") < 0)
    goto no_memory;
  if (add_literal(&c->out, "\r\n") < 0)
    goto no_memory;
  if (c->parser.method == HTTP_HEAD || has_no_body(status)) {
    c->chunked = 0;
    return 0;
  }
  if (is_function) {
    lua_pushvalue(L, base + 2);
    c->iterator = luaL_ref(L, LUA_REGISTRYINDEX);
  } else if (text_append(&c->out, body, size) < 0) {
    goto no_memory;
  }
  return 0;
no_memory:
  c->out.size = before;
  lua_pushliteral(L, "not enough memory for the answer");
  return -1;
}

/* The reason is on top: takes it. */
static void tell_failed(struct http *h) {
  lua_pushvalue(h->L, SLOT_FAILED);
  lua_insert(h->L, -2);
  lua_call(h->L, 1, 0);
}

/* What the function returned lies from `base` on; a failure is a 500, and told. */
static void answer_with(struct connection *c, int base) {
  struct http *h = c->http;
  if (lua_isnil(h->L, base)) {
    lua_pushliteral(h->L, "the function returned no status");
  } else if (build_answer(c, base) == 0) {
    return;
  }
  tell_failed(h);
  answer_refuse(c, 500);
}

/* The request's table is on top: takes it. */
static void tell_done(struct connection *c, size_t before, int64_t us) {
  lua_State *L = c->http->L;
  lua_pushvalue(L, SLOT_DONE);
  lua_insert(L, -2);
  lua_pushinteger(L, c->status);
  lua_pushinteger(L, (lua_Integer)(c->out.size - before));
  lua_pushinteger(L, us);
  lua_call(L, 4, 0);
}

/* One request less until this worker is replaced. */
static void count_down(struct http *h) {
  if (h->left > 0 && --h->left == 0)
    h->draining = 1;
  h->draining |= row_get(h->row, ROW_DRAINING) != 0;
}

/* A function in a coroutine that is suspended gives false. The stack of the caller is
 * left as it was. */
void answer_request(struct connection *c) {
  struct http *h = c->http;
  lua_State *L = h->L;
  int base = lua_gettop(L);
  size_t before = c->out.size;
  c->answering = 1;
  c->keep = http_should_keep_alive(&c->parser) && !c->half_closed;
  h->has_called = 1;
  lua_pushvalue(L, SLOT_CALL);
  request_push(c);
  lua_pushlightuserdata(L, c);
  if (!lua_isnil(L, SLOT_DONE)) {
    lua_pushvalue(L, -2);
    lua_insert(L, base + 1);
  }
  int first = lua_gettop(L) - 2; /* of the results */
  row_begin(h->row, row_now());
  int status = lua_pcall(L, 2, 3, SLOT_TRACEBACK);
  if (status == LUA_OK && h->coroutines >= 0 && lua_isboolean(L, first)) {
    c->suspended = 1;
    c->began = row_get(h->row, ROW_SINCE);
    row_set(h->row, ROW_BUSY, 0);
    lua_settop(L, base);
    return;
  }
  int64_t us = row_end(h->row, row_now(), status != LUA_OK);
  count_down(h);
  if (status == LUA_OK) {
    answer_with(c, first);
  } else {
    tell_failed(h);
    answer_refuse(c, 500);
  }
  if (!lua_isnil(L, SLOT_DONE)) {
    lua_pushvalue(L, base + 1);
    tell_done(c, before, us);
  }
  lua_settop(L, base);
}

void answer_result(struct connection *c, int base) {
  struct http *h = c->http;
  lua_State *L = h->L;
  size_t before = c->out.size;
  int succeeded = lua_toboolean(L, base + 1);
  int64_t us = row_now() - c->began;
  c->suspended = 0;
  row_count(h->row, us, !succeeded);
  count_down(h);
  if (succeeded) {
    answer_with(c, base + 3);
  } else {
    lua_pushvalue(L, base + 3);
    tell_failed(h);
    answer_refuse(c, 500);
  }
  if (!lua_isnil(L, SLOT_DONE)) {
    lua_pushvalue(L, base + 2);
    tell_done(c, before, us);
  }
}

static void forget_late(struct connection *c) {
  lua_State *L = c->http->L;
  lua_pushvalue(L, SLOT_FORGET);
  lua_pushlightuserdata(L, c);
  lua_pushboolean(L, 1);
  lua_call(L, 2, 0);
  c->suspended = c->stalled = 0;
}

/* The client of a body that does not go on sees its end, without the last chunk. */
void answer_late(struct connection *c) {
  struct http *h = c->http;
  if (c->stalled) {
    forget_late(c);
    luaL_unref(h->L, LUA_REGISTRYINDEX, c->iterator);
    c->iterator = LUA_NOREF;
    c->keep = 0;
    return;
  }
  row_count(h->row, row_now() - c->began, 1);
  count_down(h);
  forget_late(c);
  answer_refuse(c, 503);
}

/* The next piece of an answer that is a function. */
void answer_continue(struct connection *c) {
  struct http *h = c->http;
  lua_State *L = h->L;
  int base = lua_gettop(L);
  size_t size = 0;
  const char *piece = NULL;
  lua_rawgeti(L, LUA_REGISTRYINDEX, c->iterator);
  int rc = lua_pcall(L, 0, 1, 0);
  if (rc == LUA_OK && h->coroutines >= 0 && lua_isboolean(L, -1)) {
    c->stalled = 1;
    lua_settop(L, base);
    return;
  }
  if (rc == LUA_OK && !lua_isnil(L, -1))
    piece = lua_tolstring(L, -1, &size);
  if (rc != LUA_OK || (!piece && !lua_isnil(L, -1))) {
    if (rc == LUA_OK)
      lua_pushliteral(L, "a piece of the body is no string");
    tell_failed(h);
    c->keep = 0; /* without the last chunk: the client sees that something is missing */
  } else if (piece) {
    if (size > 0) {
      if (c->chunked &&
          (text_add_number(&c->out, size, 16) < 0 || add_literal(&c->out, "\r\n") < 0))
        c->keep = 0;
      if (text_append(&c->out, piece, size) < 0)
        c->keep = 0;
      if (c->chunked)
        text_append(&c->out, "\r\n", 2);
    }
    lua_settop(L, base);
    return;
  } else if (c->chunked) {
    text_append(&c->out, "0\r\n\r\n", 5);
  }
  luaL_unref(L, LUA_REGISTRYINDEX, c->iterator);
  c->iterator = LUA_NOREF;
  lua_settop(L, base);
}
