/* drive: the ledger of what was asked, the objects, what callbacks are told. */
#include "drive.h"

#include <signal.h>

/* ---- the ledger ---- */

struct ask *asks;
int nowners;

struct ask *ask_new(const char *what, struct owner *owner) {
  struct ask *a = calloc(1, sizeof *a);
  CHECK(a);
  a->what = what;
  a->owner = owner;
  a->next = asks;
  asks = a;
  return a;
}

void ask_settle(struct ask *a, int r) {
  if (r < 0) {
    CHECK(!a->told);
    a->told = 1;
  }
}

void tell(const char *what, const struct owner *o) {
  if (telling)
    printf("# %.3f %*s%s of %s %d\n", round_now() - began, 2 * depth, "", what, o->kind,
           o->number);
}

void ask_told(struct ask *a) {
  tell(a->what, a->owner);
  if (inside)
    FAIL("%s of %s %d: told inside a call", a->what, a->owner->kind, a->owner->number);
  if (a->told)
    FAIL("%s of %s %d: told twice", a->what, a->owner->kind, a->owner->number);
  if (a->owner->closed)
    FAIL("%s of %s %d: told after the close", a->what, a->owner->kind, a->owner->number);
  if (a->due > 0 && round_now() > a->due + LATE_MS * slowness / 1000)
    FAIL("%s of %s %d: told %.1f s late", a->what, a->owner->kind, a->owner->number,
         round_now() - a->due);
  a->told = 1;
}

static void owner_closed(struct owner *o) {
  tell("close", o);
  CHECK(!inside && !o->closed);
  o->closed = 1;
  for (struct ask *a = asks; a; a = a->next)
    if (a->owner == o && !a->told && !a->spare)
      FAIL("%s of %s %d: not told before the close", a->what, o->kind, o->number);
}

int nasked(int quiet_too) {
  int n = 0;
  for (struct ask *a = asks; a; a = a->next)
    n += !a->told && (quiet_too || !a->quiet);
  return n;
}

void check_error(const mf_error *e) {
  if (telling)
    printf("#   -> %s%s%s\n", e ? mf_errname(e->code) : "success", e ? ": " : "",
           e ? e->message : "");
  if (!e)
    return;
  CHECK(e->code < 0 && e->message);
  CHECK(e->started == MF_STARTED_NO || e->started == MF_STARTED_UNKNOWN);
  CHECK(mf_errname(e->code));
}

/* ---- the objects ---- */

struct proc *procs[PROCS];
struct rpc *rpcs[RPCS];
struct pool *pools[POOLS];

void *kept[KEPT_MAX];
struct owner *owners[KEPT_MAX];
int nkept;
int sockets[SOCKETS], nsockets;

void free_later(void *p, struct owner *owner) {
  CHECK(nkept < KEPT_MAX);
  owners[nkept] = owner;
  kept[nkept++] = p;
}

static void keep_socket(int fd) {
  CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  if (nsockets == SOCKETS)
    close(sockets[--nsockets]);
  sockets[nsockets++] = fd;
}

void close_socket(int i) {
  close(sockets[i]);
  sockets[i] = sockets[--nsockets];
}

void maybe_act(void) {
  if (closing_all || depth >= DEPTH_MAX || !random_one_in(4))
    return;
  depth++;
  act();
  depth--;
}

/* ---- callbacks ---- */

void on_run(mf_process *p, const mf_error *e, int fd, void *data) {
  (void)p;
  ask_told(data);
  check_error(e);
  CHECK((e != NULL) == (fd < 0));
  if (fd >= 0) {
    CHECK(fcntl(fd, F_GETFL) & O_NONBLOCK);
    keep_socket(fd);
  }
  maybe_act();
}

void on_exit_told(mf_process *p, const mf_exit *s, void *data) {
  (void)p;
  ask_told(data);
  CHECK(s && (s->known || (!s->code && !s->signal)));
  CHECK(s->code >= 0 && s->code < 256 && s->signal >= 0 && s->signal < 65);
  CHECK(!s->code || !s->signal);
  maybe_act();
}

void on_error_told(mf_process *p, const mf_error *e, void *data) {
  (void)p;
  ask_told(data);
  CHECK(e);
  check_error(e);
  maybe_act();
}

void on_memory(mf_process *p, const mf_error *e, const mf_memory_info *m, void *data) {
  (void)p;
  ask_told(data);
  check_error(e);
  CHECK(!e != !m);
  maybe_act();
}

void on_proc_closed(mf_process *p, void *data) {
  struct proc *it = data;
  (void)p;
  owner_closed(&it->owner);
  maybe_act();
}

void on_reply(const mf_error *e, const mf_message *m, void *data) {
  ask_told(data);
  check_error(e);
  CHECK(!e != !m);
  maybe_act();
}

void on_event(const mf_message *m, void *data) {
  CHECK(m && data && !inside);
  maybe_act();
}

void on_trouble(const mf_error *e, void *data) {
  struct rpc *it = data;
  CHECK(e && !inside && !it->owner.closed);
  check_error(e);
  CHECK(it->nerrors++ == 0);
  maybe_act();
}

void on_rpc_end(void *data) {
  struct rpc *it = data;
  CHECK(!inside && !it->owner.closed && it->ncloses++ == 0);
  maybe_act();
}

void on_rpc_closed(mf_rpc *rpc, void *data) {
  struct rpc *it = data;
  (void)rpc;
  owner_closed(&it->owner);
  maybe_act();
}

void on_pool_trouble(const mf_error *e, void *data) {
  struct pool *it = data;
  CHECK(e && !inside && !it->owner.closed);
  check_error(e);
  maybe_act();
}

void on_pool_told(mf_pool *pool, const mf_error *e, void *data) {
  (void)pool;
  ask_told(data);
  check_error(e);
  maybe_act();
}

void on_pool_closed(mf_pool *pool, void *data) {
  struct pool *it = data;
  (void)pool;
  owner_closed(&it->owner);
  maybe_act();
}

void on_release(void *data) {
  int *lent = data;
  CHECK(*lent == 1);
  *lent = 2;
}
