/* A board: numbers of 64 bits in memory that the server and its workers share. A worker
 * writes its own row with every request, the server reads whenever it likes; no message,
 * no lock. */
#include "serve/module.h"

#include "os/share.h"
#include "serve/row.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define BOARD_TYPE "moonfork.board"

struct board {
  int64_t *cells; /* shared; NULL: closed */
  size_t n;
  int fd; /* the file, in the process that made it; -1 */
};

static struct board *push_board(lua_State *L, size_t n) {
  struct board *b = lua_newuserdatauv(L, sizeof *b, 0);
  *b = (struct board){.n = n, .fd = -1};
  luaL_setmetatable(L, BOARD_TYPE);
  return b;
}

static size_t check_size(lua_State *L, int arg) {
  lua_Integer n = luaL_checkinteger(L, arg);
  luaL_argcheck(L, n > 0 && n <= 1 << 24, arg, "a number of cells expected");
  return (size_t)n;
}

/* board(n) -> a board of n cells, all 0; or nil, message, errno */
static int l_board(lua_State *L) {
  struct board *b = push_board(L, check_size(L, 1));
  void *map = NULL;
  int rc = share_new(b->n * sizeof(int64_t), &b->fd, &map);
  if (rc < 0)
    return serve_fail(L, -rc, "shared memory");
  b->cells = map;
  return 1;
}

/* map(fd, n) -> the board of that file, which has to have that size; the descriptor stays
 * the caller's */
static int l_map(lua_State *L) {
  int fd = (int)luaL_checkinteger(L, 1);
  struct board *b = push_board(L, check_size(L, 2));
  void *map = NULL;
  int rc = share_map(fd, b->n * sizeof(int64_t), &map);
  if (rc < 0)
    return serve_fail(L, -rc, "shared memory");
  b->cells = map;
  return 1;
}

static struct board *check_board(lua_State *L) {
  struct board *b = luaL_checkudata(L, 1, BOARD_TYPE);
  luaL_argcheck(L, b->cells, 1, "closed");
  return b;
}

static int64_t *check_cell(lua_State *L, const struct board *b, size_t room) {
  lua_Integer i = luaL_checkinteger(L, 2);
  luaL_argcheck(L, i >= 0 && (size_t)i + room <= b->n, 2, "no such cell");
  return b->cells + i;
}

static int l_get(lua_State *L) {
  int64_t *cell = check_cell(L, check_board(L), 1);
  lua_pushinteger(L, __atomic_load_n(cell, __ATOMIC_RELAXED));
  return 1;
}

static int l_set(lua_State *L) {
  int64_t *cell = check_cell(L, check_board(L), 1);
  __atomic_store_n(cell, (int64_t)luaL_checkinteger(L, 3), __ATOMIC_RELAXED);
  return 0;
}

static int l_add(lua_State *L) {
  int64_t *cell = check_cell(L, check_board(L), 1);
  int64_t n = (int64_t)luaL_optinteger(L, 3, 1);
  lua_pushinteger(L, __atomic_add_fetch(cell, n, __ATOMIC_RELAXED));
  return 1;
}

/* board:swap(i, n) -> what was there */
static int l_swap(lua_State *L) {
  int64_t *cell = check_cell(L, check_board(L), 1);
  lua_pushinteger(
      L, __atomic_exchange_n(cell, (int64_t)luaL_checkinteger(L, 3), __ATOMIC_RELAXED));
  return 1;
}

/* board:clear(i, n) */
static int l_clear(lua_State *L) {
  const struct board *b = check_board(L);
  lua_Integer n = luaL_checkinteger(L, 3);
  luaL_argcheck(L, n >= 0 && (size_t)n <= b->n, 3, "too many cells");
  int64_t *cell = check_cell(L, b, (size_t)n);
  for (lua_Integer i = 0; i < n; i++)
    __atomic_store_n(cell + i, 0, __ATOMIC_RELAXED);
  return 0;
}

/* board:record(i, us): counts a duration in the buckets from cell i on */
static int l_record(lua_State *L) {
  int64_t *cell = check_cell(L, check_board(L), ROW_BUCKETS);
  lua_Integer us = luaL_checkinteger(L, 3);
  __atomic_add_fetch(cell + row_bucket_of(us < 0 ? 0 : (uint64_t)us), 1,
                     __ATOMIC_RELAXED);
  return 0;
}

/* board:merge(to, from): adds the counts of the buckets from one cell on to those of
 * another */
static int l_merge(lua_State *L) {
  const struct board *b = check_board(L);
  int64_t *to = check_cell(L, b, ROW_BUCKETS);
  lua_Integer from = luaL_checkinteger(L, 3);
  luaL_argcheck(L, from >= 0 && (size_t)from + ROW_BUCKETS <= b->n, 3, "no such cell");
  for (unsigned k = 0; k < ROW_BUCKETS; k++)
    __atomic_add_fetch(to + k, __atomic_load_n(b->cells + from + k, __ATOMIC_RELAXED),
                       __ATOMIC_RELAXED);
  return 0;
}

/* board:percentiles({i, ...}, {0.5, ...}) -> a list of microseconds (the upper end of the
 * bucket), and how many there are; over the buckets from each of these cells on */
static int l_percentiles(lua_State *L) {
  const struct board *b = check_board(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TTABLE);
  uint64_t counts[ROW_BUCKETS] = {0}, total = 0;
  lua_Integer nrows = luaL_len(L, 2), nwanted = luaL_len(L, 3);
  for (lua_Integer r = 1; r <= nrows; r++) {
    lua_geti(L, 2, r);
    lua_Integer i = luaL_checkinteger(L, -1);
    lua_pop(L, 1);
    luaL_argcheck(L, i >= 0 && (size_t)i + ROW_BUCKETS <= b->n, 2, "no such cell");
    for (unsigned k = 0; k < ROW_BUCKETS; k++) {
      uint64_t n = (uint64_t)__atomic_load_n(b->cells + i + k, __ATOMIC_RELAXED);
      counts[k] += n;
      total += n;
    }
  }
  lua_createtable(L, (int)nwanted, 0);
  for (lua_Integer w = 1; w <= nwanted; w++) {
    lua_geti(L, 3, w);
    double share = luaL_checknumber(L, -1);
    lua_pop(L, 1);
    uint64_t below = 0, us = 0;
    for (unsigned k = 0; k < ROW_BUCKETS && total; k++) {
      below += counts[k];
      if (counts[k] && (double)below >= share * (double)total) {
        us = row_bucket_end(k);
        break;
      }
    }
    lua_pushinteger(L, (lua_Integer)us);
    lua_seti(L, -2, w);
  }
  lua_pushinteger(L, (lua_Integer)total);
  return 2;
}

static int l_fileno(lua_State *L) {
  lua_pushinteger(L, check_board(L)->fd);
  return 1;
}

static int l_close(lua_State *L) {
  struct board *b = luaL_checkudata(L, 1, BOARD_TYPE);
  if (b->cells)
    share_unmap(b->cells, b->n * sizeof(int64_t));
  b->cells = NULL;
  if (b->fd >= 0)
    close(b->fd);
  b->fd = -1;
  return 0;
}

/* now() -> microseconds of the clock that all processes have in common */
static int l_now(lua_State *L) {
  lua_pushinteger(L, row_now());
  return 1;
}

/* board:row(i) -> the row that begins at cell i, for http_core (light userdata); it lives
 * as long as the board */
static int l_row(lua_State *L) {
  lua_pushlightuserdata(L, check_cell(L, check_board(L), ROW_CELLS));
  return 1;
}

/* What Lua has to know of row.h: serve_core.cells. */
static void push_cells(lua_State *L) {
  static const struct {
    const char *name;
    lua_Integer value;
  } cells[] = {
      {"PID", ROW_PID},
      {"BUSY", ROW_BUSY},
      {"SINCE", ROW_SINCE},
      {"REQUESTS", ROW_REQUESTS},
      {"ERRORS", ROW_ERRORS},
      {"OPEN", ROW_OPEN},
      {"TIMED_OUT", ROW_TIMED_OUT},
      {"DRAINING", ROW_DRAINING},
      {"LATENCY", ROW_LATENCY},
      {"ROW", ROW_CELLS},
  };
  lua_newtable(L);
  for (size_t i = 0; i < sizeof cells / sizeof *cells; i++) {
    lua_pushinteger(L, cells[i].value);
    lua_setfield(L, -2, cells[i].name);
  }
}

void board_open(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"get", l_get},
      {"set", l_set},
      {"add", l_add},
      {"swap", l_swap},
      {"clear", l_clear},
      {"record", l_record},
      {"percentiles", l_percentiles},
      {"merge", l_merge},
      {"fileno", l_fileno},
      {"row", l_row},
      {"close", l_close},
      {NULL, NULL},
  };
  static const luaL_Reg functions[] = {
      {"board", l_board},
      {"map", l_map},
      {"now", l_now},
      {NULL, NULL},
  };
  if (luaL_newmetatable(L, BOARD_TYPE)) {
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, l_close);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "__gc");
    lua_setfield(L, -2, "__close");
  }
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
  push_cells(L);
  lua_setfield(L, -2, "cells");
}
