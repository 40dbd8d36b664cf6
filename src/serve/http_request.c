/* Requests: what http_parser tells is kept, and given to Lua as a table. */
#include "serve/http.h"

#include <string.h>
#include <strings.h>

static struct connection *of(http_parser *parser) {
  return parser->data;
}

static int keep_string(struct connection *c, const char *at, size_t size) {
  if (c->strings.size + size > HEAD_MAX) {
    c->error = 431;
    return 1;
  }
  return text_append(&c->strings, at, size) < 0;
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

int http_is_token(const char *text, size_t size) {
  static const char others[256] = {
      ['!'] = 1,  ['#'] = 1, ['$'] = 1, ['%'] = 1, ['&'] = 1,
      ['\''] = 1, ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,
      ['^'] = 1,  ['_'] = 1, ['`'] = 1, ['|'] = 1, ['~'] = 1,
  };
  for (size_t i = 0; i < size; i++) {
    unsigned char ch = (unsigned char)text[i], letter = ch | 0x20;
    if (!((letter >= 'a' && letter <= 'z') || (ch >= '0' && ch <= '9') || others[ch]))
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
    if (!http_is_token(c->strings.data + c->fields[i].name, c->fields[i].name_size)) {
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
      if (text_append(&c->out, go_on, sizeof go_on - 1) < 0)
        return -1;
    }
  }
  c->has_head = 1;
  return 0;
}

static int on_body(http_parser *parser, const char *at, size_t size) {
  struct connection *c = of(parser);
  if (c->body.size + size > c->http->body_max) {
    c->error = 413;
    return 1;
  }
  return text_append(&c->body, at, size) < 0;
}

static int on_whole(http_parser *parser) {
  of(parser)->whole = 1;
  http_parser_pause(parser, 1);
  return 0;
}

const http_parser_settings http_settings = {
    .on_url = on_url,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_headers_complete = on_head,
    .on_body = on_body,
    .on_message_complete = on_whole,
};

void request_reset(struct connection *c) {
  text_empty(&c->strings);
  text_empty(&c->body);
  http_parser_pause(&c->parser, 0);
  c->nfields = 0;
  c->target_size = 0;
  c->in_value = c->has_head = c->whole = c->answering = c->chunked = 0;
  c->error = 0;
}

/* ---- for Lua ---- */

/* The name, in lower case, and the value behind it; several of a name are one list. */
static void push_header(struct connection *c, const struct field *f, int table) {
  lua_State *L = c->http->L;
  char *name = c->strings.data + f->name;
  const char *value = c->strings.data + f->value;
  size_t size = f->value_size;
  for (size_t k = 0; k < f->name_size; k++)
    if (name[k] >= 'A' && name[k] <= 'Z')
      name[k] = (char)(name[k] + 'a' - 'A');
  while (size > 0 && (value[size - 1] == ' ' || value[size - 1] == '\t'))
    size--;
  lua_pushlstring(L, name, f->name_size);
  lua_pushvalue(L, -1);
  if (lua_rawget(L, table) == LUA_TSTRING) {
    int is_cookie = f->name_size == 6 && memcmp(name, "cookie", 6) == 0;
    lua_pushstring(L, is_cookie ? "; " : ", ");
    lua_pushlstring(L, value, size);
    lua_concat(L, 3);
  } else {
    lua_pop(L, 1);
    lua_pushlstring(L, size > 0 ? value : "", size);
  }
  lua_rawset(L, table);
}

/* The value on top is the request's field whose name has that slot. */
static void set_field(lua_State *L, int table, enum slot name) {
  lua_pushvalue(L, name);
  lua_insert(L, -2);
  lua_rawset(L, table);
}

static void push_text(lua_State *L, const char *text, size_t size) {
  if (size == 0)
    lua_pushvalue(L, SLOT_EMPTY);
  else
    lua_pushlstring(L, text, size);
}

void request_push(struct connection *c) {
  lua_State *L = c->http->L;
  const char *target = c->strings.data;
  const char *mark = memchr(target, '?', c->target_size);
  size_t path = mark ? (size_t)(mark - target) : c->target_size;
  lua_createtable(L, 0, SLOT_VERSION - SLOT_METHOD + 1);
  int table = lua_gettop(L);
  if (c->parser.method == HTTP_GET)
    lua_pushvalue(L, SLOT_GET);
  else
    lua_pushstring(L, http_method_str((enum http_method)c->parser.method));
  set_field(L, table, SLOT_METHOD);
  push_text(L, target, path);
  if (mark)
    lua_pushlstring(L, target, c->target_size);
  else
    lua_pushvalue(L, -1);
  set_field(L, table, SLOT_TARGET);
  set_field(L, table, SLOT_PATH);
  push_text(L, mark ? mark + 1 : NULL, mark ? c->target_size - path - 1 : 0);
  set_field(L, table, SLOT_QUERY);
  lua_createtable(L, 0, c->nfields);
  for (int i = 0; i < c->nfields; i++)
    push_header(c, &c->fields[i], table + 1);
  set_field(L, table, SLOT_HEADERS);
  push_text(L, c->body.data, c->body.size);
  set_field(L, table, SLOT_BODY);
  lua_pushstring(L, c->peer);
  set_field(L, table, SLOT_PEER);
  lua_pushvalue(L, c->parser.http_minor == 1 ? SLOT_1_1 : SLOT_1_0);
  set_field(L, table, SLOT_VERSION);
}
