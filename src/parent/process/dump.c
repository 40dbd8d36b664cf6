#include "parent/process/dump.h"

#include "parent/process/registry.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

void dump_text(FILE *out, const char *text) {
  putc('"', out);
  for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
    if (*c == '"' || *c == '\\')
      fprintf(out, "\\%c", *c);
    else if (*c < ' ' || *c >= 127)
      fprintf(out, "\\x%02x", *c);
    else
      putc(*c, out);
  }
  putc('"', out);
}

static uint64_t now_ms(const struct context *ctx) {
  return context_now_ms(ctx);
}

void dump_seconds(FILE *out, const struct context *ctx, uint64_t since_ms) {
  uint64_t ms = now_ms(ctx) - since_ms;
  fprintf(out, "%" PRIu64 ".%03u s", ms / 1000, (unsigned)(ms % 1000));
}

void dump_deadline(FILE *out, const struct context *ctx, const char *label,
                   const struct deadline *d) {
  if (deadline_at(d) == UINT64_MAX)
    return;
  int64_t ms = (int64_t)(deadline_at(d) - now_ms(ctx));
  fprintf(out, ", %s %.3f s", label, (double)ms / 1000);
}

void dump_failure(FILE *out, const char *label, const struct failure *f) {
  if (!f || !f->code)
    return;
  fprintf(out, ", %s: %s", label, mf_errname(f->code));
  if (f->message) {
    putc(' ', out);
    dump_text(out, f->message);
  }
  if (f->origin)
    fprintf(out, " (made at %s)", f->origin);
}

void dump_process_name(FILE *out, const struct mf_process *p) {
  fprintf(out, "process %u",
          (unsigned)(p->id & 0x7fffffff)); /* registry_new_on: from 1 */
  if (p->pid > 0)
    fprintf(out, " (pid %d)", p->pid);
  if (p->name) {
    putc(' ', out);
    dump_text(out, p->name);
  }
}

static size_t count(const struct list *head) {
  size_t n = 0;
  list_each(it, head) n++;
  return n;
}

static void put_count(FILE *out, uint64_t n, const char *what) {
  if (n)
    fprintf(out, ", %" PRIu64 " %s", n, what);
}

static void put_flag(FILE *out, unsigned flag, const char *what) {
  if (flag)
    fprintf(out, ", %s", what);
}

/* What it is. */
static int is_default(const struct mf_process *p) {
  return registry_of(p->context)->def.process == p;
}

static void put_role(FILE *out, const struct mf_process *p) {
  put_flag(out, is_default(p), "default template");
  put_flag(out, p->internal && !is_default(p), "spare");
  put_flag(out, p->tree, "with all that it starts");
  put_flag(out, p->taken_up, "from a descriptor");
  put_flag(out, !p->open && !p->internal && !is_default(p), "closed by the user");
  if (p->program) {
    fputs(", program ", out);
    dump_text(out, p->program);
  }
}

/* What it has still to do, and what the user has still to be told. */
static void put_under_way(FILE *out, const struct mf_process *p) {
  put_count(out, p->nsent - p->ndone, "commands not confirmed");
  put_count(out, count(&p->asked), "forks not confirmed");
  put_count(out, p->chan.out.nbytes, "bytes not written");
  put_flag(out, p->finish.kind == FINISH_RUN, "run under way");
  put_flag(out, p->finish.kind == FINISH_TO_FD, "to_fd under way");
  put_count(out, count(&p->memory), "questions about memory under way");
  put_flag(out, p->exit_to.cb != NULL, "its exit is awaited");
  put_flag(out, p->pending != 0, "a callback is due");
  dump_deadline(out, p->context, "timeout in", &p->limit);
  dump_deadline(out, p->context, "next check in", &p->response_timeout);
  dump_deadline(out, p->context, "retry in", &p->retry);
  if (p->spares_max)
    fprintf(out, ", %u spares (%u to %u)", p->nspares, p->spares_min, p->spares_max);
}

static void put_exit(FILE *out, const mf_exit *e) {
  if (!e->known)
    fputs(", exit status unknown", out);
  else if (e->signal)
    fprintf(out, ", ended by signal %d", e->signal);
  else
    fprintf(out, ", exit code %d", e->code);
}

static void put_end(FILE *out, const struct mf_process *p) {
  put_flag(out, p->eof, "its socket has ended");
  put_flag(out, p->gone && p->state != DEAD, "the kernel says that it has ended");
  put_flag(out, p->hung_up && p->state != DEAD, "told to end");
  put_flag(out, p->ending == END_BY_THREADS, "ends with its clones in threads");
  put_flag(out, p->ending == END_BY_FORCE, "sent SIGKILL");
  if (p->state == DEAD)
    put_exit(out, &p->exit);
  dump_failure(out, "failed", p->error);
}

static void put_process(FILE *out, const struct mf_process *p, int depth) {
  fprintf(out, "%*s", 2 * depth, "");
  dump_process_name(out, p);
  fprintf(out, ": %s for ", state_names[p->state]);
  dump_seconds(out, p->context, p->state_since_ms);
  fputs(", made ", out);
  dump_seconds(out, p->context, p->made_ms);
  fputs(" ago", out);
  put_role(out, p);
  put_under_way(out, p);
  put_end(out, p);
  putc('\n', out);
  if (p->far && !p->was_asked)
    far_link_dump(p->far, out, 2 * depth + 2);
}

static const struct mf_process *next_root(const struct context *ctx,
                                          const struct list *from) {
  for (const struct list *it = from->next;
       it != &registry_of((struct context *)ctx)->processes; it = it->next) {
    const struct mf_process *p = list_entry(it, struct mf_process, link);
    if (!p->source)
      return p;
  }
  return NULL;
}

static const struct mf_process *first_fork(const struct mf_process *p) {
  return list_empty(&p->forks) ? NULL
                               : list_entry(p->forks.next, struct mf_process, fork_link);
}

/* The next one with p's own source. */
static const struct mf_process *next_fork(const struct context *ctx,
                                          const struct mf_process *p) {
  if (!p->source)
    return next_root(ctx, &p->link);
  const struct list *next = p->fork_link.next;
  return next == &p->source->forks ? NULL
                                   : list_entry(next, struct mf_process, fork_link);
}

/* The records make trees: a clone stands below what it was forked from. Without
 * recursion, so that a chain of any length can be printed: after p comes the first that
 * was forked from it, else the next one with p's own source, and so on upwards. */
static void put_processes(FILE *out, const struct context *ctx) {
  const struct mf_process *p = next_root(ctx,
                                         &registry_of((struct context *)ctx)->processes),
                          *next;
  int depth = 1;
  while (p) {
    put_process(out, p, depth);
    next = first_fork(p);
    if (next)
      depth++;
    while (!next && p) {
      next = next_fork(ctx, p);
      if (!next) {
        p = p->source;
        depth--;
      }
    }
    p = next;
  }
}

static void put_context(FILE *out, const struct context *ctx) {
  fprintf(out,
          "moonfork %s, process %d: %zu processes, %zu with work under way, "
          "%zu rpcs and pools\n",
          mf_version_string(), (int)getpid(),
          count(&registry_of((struct context *)ctx)->processes), ctx->nbusy,
          count(&ctx->dump_entries));
  put_processes(out, ctx);
  list_each(it, &ctx->dump_entries) {
    const struct dump_entry *r = list_entry(it, struct dump_entry, link);
    r->dump(r, out);
  }
}

int mf_dump(struct uv_loop_s *loop, FILE *out) {
  if (!out)
    return MF_EINVAL;
  const struct context *ctx = context_find(loop);
  if (ctx)
    put_context(out, ctx);
  else
    fprintf(out, "moonfork %s, process %d: no processes\n", mf_version_string(),
            (int)getpid());
  context_dump_parts(loop, out);
  return ferror(out) ? -EIO : 0;
}
