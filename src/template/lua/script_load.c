/* An interpreter that is loaded from an image, in the place of a new one: script_load.
 * What it keeps in Lua is in the image; what is in C's memory is made here. Runs in a
 * process that has just been executed. */
#include "template/lua/script.h"

#include "base/result.h"
#include "template/image/image.h"
#include "template/lua/clone_lib.h"
#include "template/lua/on_term.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct resume_job {
  struct server *s;
  const struct options *o;
};

static int l_resume(lua_State *L) {
  const struct resume_job *job = lua_touserdata(L, 1);
  struct server *s = job->s;
  script_set_paths(L, job->o);
  if (job->o->gc == COLLECTOR_INCREMENTAL) {
    lua_gc(L, LUA_GCINC, 0, 0, 0);
    s->collector.incremental = 1;
  }
  clone_lib_resume(L, s->program != NULL);
  on_term_resume(L);
  audit_resume(&s->audit, L);
  args_resume(&s->args, L);
  clone_lib_reseed(L); /* else each process that begins as it would draw the same */
  return 0;
}

/* An error of a __clone: the image can't be used, as if it did not fit. */
static void blame_image(struct server *s, const char *path) {
  char prefix[600];
  snprintf(prefix, sizeof prefix, "the image %.500s can't be used: ", path);
  failure_record_prefix(&s->failure, prefix);
  if (s->failure.code == FAILURE_REMOTE)
    s->failure.code = FAILURE_INVAL;
}

int script_load(struct server *s, const struct options *o) {
  char why[IMAGE_TEXT_MAX];
  struct image_loaded loaded = {0};
  char *path = strndup(o->image.p, o->image.n);
  int r =
      path ? image_load(path, o->image_verify ? IMAGE_VERIFY : 0, &loaded, why) : -ENOMEM;
  if (r < 0 && path)
    server_fail_with(s, failure_code_of(r), PHASE_OPTION, -r,
                     "the image %s can't be used: %s", path, why);
  if (r < 0) {
    free(path);
    free(loaded.hooks);
    return r;
  }
  s->L = loaded.L;
  s->program = loaded.program;
  s->heap = loaded.heap;
  s->collector = loaded.collector;
  if (o->gc != COLLECTOR_GENERATIONAL) /* else as it was saved */
    s->collector.gc = o->gc;
  script_attach(s);
  struct resume_job job = {s, o};
  r = script_protect(s, l_resume, &job, 0, FAILURE_REMOTE, PHASE_START);
  if (r == 0) {
    r = script_call_clone(s, (char *)s->heap, loaded.hooks, loaded.nhooks, PHASE_OPTION);
    if (r < 0)
      blame_image(s, path);
  }
  free(path);
  free(loaded.hooks);
  return r;
}
