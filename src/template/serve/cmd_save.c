/* CMD_SAVE: writes the interpreter as an image. A file that can't be written, or a state
 * that can't be saved, is told in the answer and changes nothing: the process goes on.
 * Runs in templates and clones before run. */
#include "template/serve/commands.h"

#include "base/result.h"
#include "template/fork/clone.h"
#include "template/image/image.h"
#include "template/lua/script.h"
#include "template/lua/second_thread.h"
#include "wire/frame.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int l_keep(lua_State *L) {
  const struct server *s = lua_touserdata(L, 1);
  audit_keep(&s->audit, L);
  args_keep(&s->args, L);
  return 0;
}

static int l_keep_end(lua_State *L) {
  audit_keep_end(L);
  args_keep_end(L);
  return 0;
}

/* With what lies outside of Lua: strings for the function, and what the audit knows, as
 * the modules that it watched will not be loaded again. */
static int save_with_notes(struct server *s, const char *path, char why[IMAGE_TEXT_MAX]) {
  int r = script_protect(s, l_keep, s, 0, FAILURE_NOMEM, PHASE_OPTION);
  r = r < 0 ? -ENOMEM
            : image_save(s->L, s->heap, &s->collector, s->program, 0, path, why);
  (void)script_protect(s, l_keep_end, NULL, 0, FAILURE_NOMEM, PHASE_OPTION);
  return r;
}

/* Sealed, so that there is no garbage in it and the collector is as in a template. */
static int save(struct server *s, const char *path, char why[IMAGE_TEXT_MAX]) {
  const char *obstacle = s->thread ? "a clone that is a thread can't be saved; its "
                                     "template can"
                                   : image_obstacle(s->L, s->heap);
  if (obstacle) {
    snprintf(why, IMAGE_TEXT_MAX, "%s", obstacle);
    return -ENOTSUP;
  }
  server_enter_user(s); /* finalisers run, and are user code */
  int r = collector_seal(&s->collector, s->L);
  server_leave_user(s);
  if (r == 0)
    r = second_thread_refuses(s, why);
  if (r == 0)
    r = save_with_notes(s, path, why);
  return r;
}

int cmd_save(struct server *s, struct command *c) {
  unsigned char room[IMAGE_TEXT_MAX + 64];
  struct buf body = {.data = room, .cap = sizeof room, .max = sizeof room};
  char why[IMAGE_TEXT_MAX] = "";
  char *path =
      memchr(c->body, 0, c->length) ? NULL : strndup((const char *)c->body, c->length);
  if (!path || !*path) {
    free(path);
    return server_malformed(s, "malformed save command");
  }
  int r = save(s, path, why);
  free(path);
  buf_put_u32(&body, (uint32_t)failure_code_of(r));
  buf_put_u32(&body, r == -EINVAL || r == -ENOTSUP ? 0 : (uint32_t)-r);
  buf_put_str(&body, r < 0 && !*why ? "not enough memory" : why, strlen(why));
  connection_answer(&s->conn, ANS_SAVED, c->id, buf_peek(&body), buf_size(&body));
  return 0;
}
