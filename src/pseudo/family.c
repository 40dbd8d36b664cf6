#include "pseudo/family.h"

#include "os/sigchain.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

__thread struct family_member *family_self;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_cond_t over; /* the same of ends alone, on a clock that nobody sets */
static pthread_once_t over_is_made = PTHREAD_ONCE_INIT;
static int ninsisting;                /* who wait for it */
static struct family_member *members; /* newest first */
static long last_id, nalive;
static lua_Hook ending_hook;

struct family_member *family_add(long parent) {
  struct family_member *m = calloc(1, sizeof *m);
  if (!m)
    return NULL;
  pthread_mutex_lock(&lock);
  m->id = ++last_id;
  m->parent = parent;
  m->next = members;
  members = m;
  nalive++;
  pthread_mutex_unlock(&lock);
  return m;
}

void family_enter(struct family_member *m) {
  pthread_mutex_lock(&lock);
  family_self = m;
  m->thread = pthread_self();
  m->has_thread = true;
  pthread_mutex_unlock(&lock);
}

static void remove_locked(struct family_member *m) {
  struct family_member **at = &members;
  while (*at != m)
    at = &(*at)->next;
  *at = m->next;
  free(m);
}

void family_withdraw(struct family_member *m) {
  pthread_mutex_lock(&lock);
  nalive--;
  remove_locked(m);
  pthread_mutex_unlock(&lock);
}

/* The first one is kept: its status is the program's. */
void family_end(struct family_member *m, int code, int signal) {
  pthread_mutex_lock(&lock);
  m->ended = true;
  m->code = code;
  m->signal = signal;
  nalive--;
  for (struct family_member *c = members, *next; c; c = next) {
    next = c->next;
    if (c->parent != m->id)
      continue;
    c->parent = 0;
    if (c->ended)
      remove_locked(c);
  }
  if (!m->parent && m->id != 1)
    remove_locked(m);
  pthread_cond_broadcast(&changed);
  if (ninsisting)
    pthread_cond_broadcast(&over);
  pthread_mutex_unlock(&lock);
}

void family_wait_for_all(void) {
  pthread_mutex_lock(&lock);
  while (nalive)
    pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
}

/* The oldest that has ended, else one that lives. */
static struct family_member *child_of(const struct family_member *m, long id) {
  struct family_member *found = NULL;
  for (struct family_member *c = members; c; c = c->next)
    if (c->parent == m->id && (id == -1 || c->id == id) &&
        (c->ended || !found || !found->ended))
      found = c;
  return found;
}

enum family_waited family_wait(struct family_member *m, long id, bool block, long *ret_id,
                               int *ret_code, int *ret_signal) {
  enum family_waited result = WAITED_NONE;
  pthread_mutex_lock(&lock);
  struct family_member *c;
  while ((c = child_of(m, id)) && !c->ended) {
    result = WAITED_RUNNING;
    if (!block)
      break;
    if (atomic_load(&m->ending)) {
      result = WAITED_LEFT;
      break;
    }
    pthread_cond_wait(&changed, &lock);
    result = WAITED_NONE;
  }
  if (c && c->ended) {
    *ret_id = c->id, *ret_code = c->code, *ret_signal = c->signal;
    remove_locked(c);
    result = WAITED_ENDED;
  }
  pthread_mutex_unlock(&lock);
  return result;
}

static struct family_member *living_locked(long id) {
  struct family_member *m = members;
  while (m && (m->id != id || m->ended))
    m = m->next;
  return m;
}

static void on_signal(int number, siginfo_t *info, void *context);

/* C modules may handle that signal: it is for what comes out of band on sockets. */
static struct sigchain chain = {.signum = SIGURG, .handler = on_signal};

static void make_over(void) {
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&over, &attributes);
  pthread_condattr_destroy(&attributes);
}

static struct timespec in_ms(long ms) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  at.tv_nsec += ms * 1000000;
  at.tv_sec += at.tv_nsec / 1000000000;
  at.tv_nsec %= 1000000000;
  return at;
}

/* A signal that comes right before a system call interrupts nothing. So somebody sends it
 * again, less and less often, until the process has ended, and no longer: the program may
 * want to fork then, which it can't with a second thread. */
static void *insist(void *data) {
  long id = (long)(intptr_t)data, ms = 1;
  pthread_mutex_lock(&lock);
  for (struct family_member *m; (m = living_locked(id)); ms *= ms < 200 ? 2 : 1) {
    if (m->has_thread)
      pthread_kill(m->thread, SIGURG);
    struct timespec next = in_ms(ms);
    while (living_locked(id) && pthread_cond_timedwait(&over, &lock, &next) == 0)
      ;
  }
  ninsisting--;
  pthread_mutex_unlock(&lock);
  return NULL;
}

static void start_insisting_locked(long id) {
  pthread_t thread;
  (void)sigchain_install(&chain); /* a module may have come meanwhile */
  pthread_once(&over_is_made, make_over);
  if (pthread_create(&thread, NULL, insist, (void *)(intptr_t)id) != 0)
    return;
  pthread_detach(thread);
  ninsisting++;
}

int family_kill(long id, int signal) {
  int r = -ESRCH, none = 0;
  pthread_mutex_lock(&lock);
  for (struct family_member *m = members; m; m = m->next) {
    if (m->id != id)
      continue;
    r = 0; /* also for one that has ended and was not waited for */
    if (!signal || m->ended || !atomic_compare_exchange_strong(&m->ending, &none, signal))
      break;
    if (m != family_self)
      start_insisting_locked(id);
    pthread_cond_broadcast(&changed);
  }
  pthread_mutex_unlock(&lock);
  return r;
}

long family_parent(const struct family_member *m) {
  pthread_mutex_lock(&lock);
  long parent = m->parent;
  pthread_mutex_unlock(&lock);
  return parent;
}

/* In the thread that is to leave; as lua.c does with an interrupt. */
static void on_signal(int number, siginfo_t *info, void *context) {
  struct family_member *m = family_self;
  (void)number;
  if (m && m->running && atomic_load(&m->ending))
    lua_sethook(m->running, ending_hook, LUA_MASKCOUNT, 1);
  else
    sigchain_pass(&chain, info, context);
}

int family_watch(lua_Hook hook) {
  ending_hook = hook;
  return sigchain_install(&chain);
}
