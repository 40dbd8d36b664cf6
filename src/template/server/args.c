/* Pending arguments. Runs in templates and clones before run.
 *
 * A long string becomes a Lua string without a second copy: Lua makes a string by one
 * allocation of (header, characters, NUL) and copies the characters into it. args_init
 * finds the size of that header by watching an allocation; a long argument is received
 * into a mapping with as much room in front, and the heap is told to give this very
 * mapping for the next string of that size (heap_offer). Lua writes its header into the
 * free room and copies the characters onto themselves. Where the heap is not ours it is a
 * plain copy. */
#include "template/server/args.h"

#include "os/fd.h"
#include "socket/socket.h"
#include "wire/proto.h"
#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum arg_kind { ARG_HANDLE, ARG_STRING, ARG_MAP };

struct arg {
  enum arg_kind kind;
  int fd;
  size_t at, length; /* STRING: where in strings; MAP: characters */
  struct gather map;
};

/* ---- the layout of a string ---- */

enum { PROBE_LENGTH = 200 }; /* a long string; what a new state makes is shorter */

struct probe {
  char *block;
  size_t size;
};

static void *probe_alloc(void *ud, void *block, size_t osize, size_t nsize) {
  struct probe *p = ud;
  if (nsize == 0) {
    free(block);
    return NULL;
  }
  void *r = realloc(block, nsize);
  if (!block && osize == LUA_TSTRING && nsize > PROBE_LENGTH) {
    p->block = r;
    p->size = nsize;
  }
  return r;
}

static int push_probe(lua_State *L) {
  const char text[PROBE_LENGTH] = "";
  lua_pushlstring(L, text, sizeof text);
  return 1;
}

/* The offset of the characters in a string's block; 0: unknown, no offers then. */
static size_t find_lead(void) {
  struct probe p = {0};
  size_t lead = 0;
  lua_State *L = lua_newstate(probe_alloc, &p);
  if (L) {
    lua_pushcfunction(L, push_probe);
    if (lua_pcall(L, 0, 1, 0) == LUA_OK && p.block) {
      size_t at = (size_t)(lua_tostring(L, -1) - p.block);
      if (p.size == at + PROBE_LENGTH + 1)
        lead = at;
    }
    lua_close(L);
  }
  return lead;
}

void args_init(struct args *a) {
  *a = (struct args){.lead = find_lead()};
  buf_init(&a->strings, SIZE_MAX / 4);
}

/* ---- the list ---- */

static struct arg *add(struct args *a) {
  if (a->n == a->cap) {
    size_t cap = a->cap ? a->cap * 2 : 16;
    struct arg *items = realloc(a->items, cap * sizeof *items);
    if (!items)
      return NULL;
    a->items = items;
    a->cap = cap;
  }
  return &a->items[a->n++];
}

int args_put_handle(struct args *a, int fd) {
  struct arg *arg = add(a);
  if (!arg) {
    fd_close(&fd);
    return -ENOMEM;
  }
  *arg = (struct arg){.kind = ARG_HANDLE, .fd = fd};
  return 0;
}

static int charge(struct args *a, size_t n) {
  if (n > PROTO_PAYLOAD_MAX - a->bytes)
    return -E2BIG;
  a->bytes += n;
  return 0;
}

int args_put_string(struct args *a, const void *data, size_t n) {
  if (n >= HEAP_BIG) {
    struct gather g;
    gather_init(&g, a->lead);
    int r = gather_put(&g, data, n);
    return r < 0 ? r : args_put_gather(a, &g);
  }
  int r = charge(a, n);
  size_t at = buf_size(&a->strings);
  if (r == 0 && n > 0)
    r = buf_put(&a->strings, data, n);
  struct arg *arg = r == 0 ? add(a) : NULL;
  if (!arg)
    return r < 0 ? r : -ENOMEM;
  *arg = (struct arg){.kind = ARG_STRING, .fd = -1, .at = at, .length = n};
  return 0;
}

int args_put_gather(struct args *a, struct gather *g) {
  if (g->length < HEAP_BIG) {
    int small = args_put_string(a, gather_body(g), g->length);
    gather_deinit(g);
    return small;
  }
  int r = charge(a, g->length);
  if (r == 0)
    r = gather_fit(g, 1);
  struct arg *arg = r == 0 ? add(a) : NULL;
  if (!arg) {
    gather_deinit(g);
    return r < 0 ? r : -ENOMEM;
  }
  *arg = (struct arg){.kind = ARG_MAP, .fd = -1, .length = g->length, .map = *g};
  gather_init(g, g->lead);
  return 0;
}

void args_clear(struct args *a) {
  for (size_t i = 0; i < a->n; i++) {
    fd_close(&a->items[i].fd);
    gather_deinit(&a->items[i].map);
  }
  a->n = 0;
  a->bytes = 0;
  buf_consume(&a->strings, buf_size(&a->strings));
}

static int copy_arg(const struct arg *from, struct arg *to) {
  *to = *from;
  if (from->kind != ARG_MAP)
    return 0;
  gather_init(&to->map, from->map.lead);
  int r = gather_put(&to->map, gather_body(&from->map), from->length);
  return r < 0 ? r : gather_fit(&to->map, 1);
}

int args_copy(const struct args *a, struct args *ret) {
  int r = 0;
  *ret = (struct args){.lead = a->lead, .bytes = a->bytes};
  buf_init(&ret->strings, SIZE_MAX / 4);
  if (buf_size(&a->strings) > 0)
    r = buf_put(&ret->strings, buf_peek(&a->strings), buf_size(&a->strings));
  for (size_t i = 0; i < a->n && r == 0; i++) {
    struct arg *arg = add(ret);
    r = arg ? copy_arg(&a->items[i], arg) : -ENOMEM;
  }
  if (r == 0)
    return 0;
  args_disown(ret);
  args_deinit(ret);
  return -ENOMEM;
}

void args_disown(struct args *a) {
  for (size_t i = 0; a->items && i < a->n; i++)
    a->items[i].fd = -1;
}

void args_deinit(struct args *a) {
  args_clear(a);
  free(a->items);
  buf_deinit(&a->strings);
  *a = (struct args){.lead = a->lead};
  buf_init(&a->strings, SIZE_MAX / 4);
}

int args_has_fd(const struct args *a, int fd) {
  for (size_t i = 0; i < a->n; i++)
    if (a->items[i].kind == ARG_HANDLE && a->items[i].fd == fd)
      return 1;
  return 0;
}

/* ---- into Lua ---- */

static void push_map(struct gather *g, size_t lead, lua_State *L, struct heap *heap) {
  int offered = heap && lead > 0 && g->lead == lead;
  if (offered) {
    g->map = heap_bring_in(heap, g->map, g->map_size);
    heap_offer(heap, g->map, g->map_size, lead + g->length + 1);
  }
  lua_pushlstring(L, (const char *)g->map + g->lead, g->length);
  if (offered && heap_withdraw(heap))
    gather_init(g, g->lead); /* the heap owns it now */
  else
    gather_deinit(g);
}

static void push_arg(struct args *a, struct arg *arg, lua_State *L, struct heap *heap) {
  int fd = arg->fd;
  switch (arg->kind) {
  case ARG_HANDLE:
    arg->fd = -1; /* taken, even when this raises */
    socket_push(L, fd, SOCKET_FOREIGN);
    break;
  case ARG_STRING:
    lua_pushlstring(L, (const char *)buf_peek(&a->strings) + arg->at, arg->length);
    break;
  case ARG_MAP:
    push_map(&arg->map, a->lead, L, heap);
    break;
  }
}

int args_push(struct args *a, lua_State *L, struct heap *heap) {
  int n = (int)a->n;
  luaL_checkstack(L, n, "too many arguments");
  for (size_t i = 0; i < a->n; i++)
    push_arg(a, &a->items[i], L, heap);
  args_clear(a);
  return n;
}

/* ---- in images ---- */

static const char kept_key = 0;

void args_keep(const struct args *a, lua_State *L) {
  lua_Integer n = 0;
  luaL_checkstack(L, 3, NULL);
  lua_newtable(L);
  for (size_t i = 0; i < a->n; i++) {
    const struct arg *arg = &a->items[i];
    if (arg->kind == ARG_HANDLE)
      continue;
    const unsigned char *text =
        arg->kind == ARG_MAP ? gather_body(&arg->map) : buf_peek(&a->strings) + arg->at;
    lua_pushlstring(L, arg->length ? (const char *)text : "", arg->length);
    lua_rawseti(L, -2, ++n);
  }
  if (n > 0)
    lua_rawsetp(L, LUA_REGISTRYINDEX, &kept_key);
  else
    lua_pop(L, 1);
}

void args_keep_end(lua_State *L) {
  lua_pushnil(L);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &kept_key);
}

void args_resume(struct args *a, lua_State *L) {
  int top = lua_gettop(L);
  luaL_checkstack(L, 3, NULL);
  if (lua_rawgetp(L, LUA_REGISTRYINDEX, &kept_key) == LUA_TTABLE)
    for (lua_Integer i = 1; lua_rawgeti(L, -1, i) == LUA_TSTRING; i++) {
      size_t n;
      const char *text = lua_tolstring(L, -1, &n);
      if (args_put_string(a, text, n) < 0)
        luaL_error(L, "not enough memory");
      lua_pop(L, 1);
    }
  lua_settop(L, top);
  args_keep_end(L);
}
