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

/* The value without blanks at its end. */
static size_t value_size(const struct connection *c, const struct field *f) {
  const char *value = c->strings.data + f->value;
  size_t size = f->value_size;
  while (size > 0 && (value[size - 1] == ' ' || value[size - 1] == '\t'))
    size--;
  return size;
}

static int is_host(const char *text, size_t size) {
  for (size_t i = 0; i < size; i++) {
    unsigned char ch = (unsigned char)text[i];
    if (ch <= ' ' || ch >= 127 || strchr("/?#@\\,\"<>^`{|}", ch))
      return 0;
  }
  return 1;
}

/* The number that http_parser has read, and nothing else: what it takes for a length is
 * what everybody takes for it. */
static int is_content_length(const struct connection *c, const struct field *f) {
  uint64_t length = 0;
  size_t size = value_size(c, f);
  for (size_t i = 0; i < size; i++) {
    char ch = c->strings.data[f->value + i];
    if (ch < '0' || ch > '9' || length > UINT64_MAX / 10 - 1)
      return 0;
    length = length * 10 + (uint64_t)(ch - '0');
  }
  return size > 0 && length == c->parser.content_length;
}

/* http_parser lets blanks in names pass, and any byte at the beginning of a value. */
static int is_field(const struct connection *c, const struct field *f) {
  unsigned char first =
      f->value_size > 0 ? (unsigned char)c->strings.data[f->value] : ' ';
  return http_is_token(c->strings.data + f->name, f->name_size) &&
         (first >= ' ' || first == '\t') && first != 127;
}

/* Whether two servers could read the fields in two ways: 0, or the status of the refusal.
 * http_parser lets some of it pass (lists of codings, several hosts). */
static int refuse_fields(const struct connection *c) {
  int nhosts = 0, nencodings = 0;
  for (int i = 0; i < c->nfields; i++) {
    const struct field *f = &c->fields[i];
    const char *name = c->strings.data + f->name;
    if (!is_field(c, f))
      return 400;
    if (f->name_size == 4 && strncasecmp(name, "host", 4) == 0) {
      if (++nhosts > 1 || !is_host(c->strings.data + f->value, value_size(c, f)))
        return 400;
    } else if (f->name_size == 14 && strncasecmp(name, "content-length", 14) == 0) {
      if (!is_content_length(c, f))
        return 400;
    } else if (f->name_size == 17 && strncasecmp(name, "transfer-encoding", 17) == 0) {
      if (++nencodings > 1 || c->parser.http_minor == 0)
        return 400;
      if (value_size(c, f) != 7 ||
          strncasecmp(c->strings.data + f->value, "chunked", 7) != 0)
        return 501;
      if (!(c->parser.flags & F_CHUNKED))
        return 400;
    }
  }
  return nhosts == 0 && c->parser.http_minor >= 1 ? 400 : 0;
}

/* "/path?query"; "*" where it is allowed; or with scheme and host before, which proxies
 * send. */
static int is_target(const struct connection *c) {
  const char *target = c->strings.data;
  for (size_t i = 0; i < c->target_size; i++)
    if ((unsigned char)target[i] <= ' ' || target[i] == 127 || target[i] == '#')
      return 0;
  return target[0] != '*' || (c->target_size == 1 && c->parser.method == HTTP_OPTIONS);
}

static int on_head(http_parser *parser) {
  struct connection *c = of(parser);
  int has_body = parser->flags & F_CHUNKED ||
                 (parser->content_length != 0 && parser->content_length != UINT64_MAX);
  if (parser->http_major != 1)
    c->error = 505;
  else if (parser->method == HTTP_CONNECT)
    c->error = 501;
  else if (!is_target(c))
    c->error = 400;
  else
    c->error = refuse_fields(c);
  if (c->error)
    return -1;
  if (parser->content_length != UINT64_MAX &&
      parser->content_length > c->http->body_max) {
    c->error = 413;
    return -1;
  }
  const struct field *expect = find(c, "expect");
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
  c->nheaders = c->nfields;
  return lines_set(&c->lines, parser->flags & F_CHUNKED ? LINES_CHUNK : LINES_BODY, 0);
}

static int on_body(http_parser *parser, const char *at, size_t size) {
  struct connection *c = of(parser);
  if (c->body.size + size > c->http->body_max) {
    c->error = 413;
    return 1;
  }
  if (c->http->bodies + size > c->http->bodies_max) {
    c->error = 503;
    return 1;
  }
  if (text_append(&c->body, at, size) < 0)
    return 1;
  c->http->bodies += size;
  return 0;
}

/* A chunk begins, whose size is told: no need to wait for what will not be taken. */
static int on_chunk(http_parser *parser) {
  struct connection *c = of(parser);
  uint64_t size = parser->content_length;
  if (size <= c->http->body_max - c->body.size)
    return lines_set(&c->lines, size > 0 ? LINES_DATA : LINES_HEAD, size);
  c->error = 413;
  return 1;
}

static int on_whole(http_parser *parser) {
  struct connection *c = of(parser);
  for (int i = c->nheaders; i < c->nfields; i++)
    if (!is_field(c, &c->fields[i])) {
      c->error = 400;
      return -1;
    }
  c->whole = 1;
  http_parser_pause(parser, 1);
  return 0;
}

const http_parser_settings http_settings = {
    .on_url = on_url,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_headers_complete = on_head,
    .on_body = on_body,
    .on_chunk_header = on_chunk,
    .on_message_complete = on_whole,
};

void request_reset(struct connection *c) {
  text_empty(&c->strings);
  c->http->bodies -= c->body.size;
  text_empty(&c->body);
  http_parser_pause(&c->parser, 0);
  c->nfields = c->nheaders = 0;
  c->target_size = 0;
  lines_init(&c->lines);
  c->in_value = c->has_head = c->whole = c->answering = c->chunked = 0;
  c->error = 0;
}

/* ---- for Lua ---- */

/* The name, in lower case, and the value behind it; several of a name are one list. */
static void push_header(struct connection *c, const struct field *f, int table) {
  lua_State *L = c->http->L;
  char *name = c->strings.data + f->name;
  const char *value = c->strings.data + f->value;
  size_t size = value_size(c, f);
  for (size_t k = 0; k < f->name_size; k++)
    if (name[k] >= 'A' && name[k] <= 'Z')
      name[k] = (char)(name[k] + 'a' - 'A');
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

/* Where the path begins: behind scheme and host, where the target has them. */
static size_t authority_end(const struct connection *c) {
  struct http_parser_url url;
  if (c->strings.data[0] == '/' || c->strings.data[0] == '*')
    return 0;
  http_parser_url_init(&url);
  if (http_parser_parse_url(c->strings.data, c->target_size, 0, &url) != 0)
    return 0;
  if (url.field_set & (1 << UF_PATH))
    return url.field_data[UF_PATH].off;
  if (url.field_set & (1 << UF_QUERY))
    return url.field_data[UF_QUERY].off - 1u;
  return c->target_size;
}

/* The target's host counts, if it has one, and not the header's. Trailers are no headers:
 * a proxy that has looked at those has not seen them. */
static void push_headers(struct connection *c, size_t authority) {
  lua_State *L = c->http->L;
  lua_createtable(L, 0, c->nheaders);
  int table = lua_gettop(L);
  for (int i = 0; i < c->nheaders; i++)
    push_header(c, &c->fields[i], table);
  const char *host = authority > 0 ? memchr(c->strings.data, '/', authority) : NULL;
  if (host && host + 2 <= c->strings.data + authority) {
    lua_pushlstring(L, host + 2, (size_t)(c->strings.data + authority - host) - 2);
    lua_setfield(L, table, "host");
  }
}

void request_push(struct connection *c) {
  lua_State *L = c->http->L;
  const char *target = c->strings.data, *end = target + c->target_size;
  const char *path = target + authority_end(c);
  const char *mark = memchr(path, '?', (size_t)(end - path));
  size_t path_size = (size_t)((mark ? mark : end) - path);
  lua_createtable(L, 0, SLOT_VERSION - SLOT_METHOD + 1);
  int table = lua_gettop(L);
  if (c->parser.method == HTTP_GET)
    lua_pushvalue(L, SLOT_GET);
  else
    lua_pushstring(L, http_method_str((enum http_method)c->parser.method));
  set_field(L, table, SLOT_METHOD);
  push_text(L, path_size > 0 ? path : "/", path_size > 0 ? path_size : 1);
  if (path_size < c->target_size)
    lua_pushlstring(L, target, c->target_size);
  else
    lua_pushvalue(L, -1);
  set_field(L, table, SLOT_TARGET);
  set_field(L, table, SLOT_PATH);
  push_text(L, mark ? mark + 1 : NULL, mark ? (size_t)(end - mark) - 1 : 0);
  set_field(L, table, SLOT_QUERY);
  push_headers(c, (size_t)(path - target));
  set_field(L, table, SLOT_HEADERS);
  push_text(L, c->body.data, c->body.size);
  set_field(L, table, SLOT_BODY);
  lua_pushstring(L, c->peer);
  set_field(L, table, SLOT_PEER);
  lua_pushvalue(L, c->parser.http_minor >= 1 ? SLOT_1_1 : SLOT_1_0);
  set_field(L, table, SLOT_VERSION);
}
