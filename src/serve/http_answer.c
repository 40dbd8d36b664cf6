/* Answers: what the function has returned, as bytes for the client. */
#include "serve/http.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

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

/* A refusal of our own; the connection ends with it. */
void answer_refuse(struct connection *c, int status) {
  char body[128];
  int n = snprintf(body, sizeof body, "%d %s\n", status, reason_of(status));
  c->keep = 0;
  c->whole = c->answering = c->refused = 1;
  c->status = status;
  text_add(
      &c->out,
      "HTTP/1.1 %d %s\r\nDate: %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
      "Connection: close\r\n\r\n",
      status, reason_of(status), date(c->http), n);
  if (c->parser.method != HTTP_HEAD)
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
  if (is_function && !c->chunked)
    c->keep = 0; /* its end is that of the connection */
  if (text_add(&c->out, "HTTP/1.1 %d %s\r\nDate: %s\r\n", status, reason_of(status),
               date(h)) < 0)
    goto no_memory;
  if (lua_istable(L, base + 1) && add_headers(h, &c->out, base + 1) < 0) {
    c->out.size = before;
    return -1;
  }
  if (c->chunked)
    text_append(&c->out, "Transfer-Encoding: chunked\r\n", 28);
  else if (!is_function && !has_no_body(status))
    text_add(&c->out, "Content-Length: %zu\r\n", size);
  if (!c->keep)
    text_append(&c->out, "Connection: close\r\n", 19);
  else if (c->parser.http_minor == 0)
    text_append(&c->out, "Connection: keep-alive\r\n", 24);
  if (text_append(&c->out, "\r\n", 2) < 0)
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

/* handler("request", request) -> status, headers, body, is the last of this worker;
 * handler("failed", text); handler("done", request, status, bytes) */
void answer_request(struct connection *c) {
  struct http *h = c->http;
  lua_State *L = h->L;
  int base = lua_gettop(L);
  size_t before = c->out.size;
  c->answering = 1;
  c->keep = http_should_keep_alive(&c->parser) && !c->half_closed;
  luaL_checkstack(L, 16, NULL);
  request_push(c);
  int request = base + 1;
  lua_pushvalue(L, h->handler);
  lua_pushliteral(L, "request");
  lua_pushvalue(L, request);
  lua_call(L, 2, 4);
  if (lua_toboolean(L, request + 4))
    h->draining = 1;
  if (lua_isnil(L, request + 1)) {
    answer_refuse(c, 500);
  } else if (build_answer(c, request + 1) < 0) {
    int reason = lua_gettop(L);
    lua_pushvalue(L, h->handler);
    lua_pushliteral(L, "failed");
    lua_pushvalue(L, reason);
    lua_call(L, 2, 0);
    answer_refuse(c, 500);
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
void answer_continue(struct connection *c) {
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
        text_add(&c->out, "%zx\r\n", size);
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
