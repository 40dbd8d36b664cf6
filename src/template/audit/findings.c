/* Everything that the audit tells when it is asked (audit.h, audit_findings): what is
 * there now, with the names that were noted while modules were loaded. */
#include "template/audit/audit.h"

#include "os/fd.h"
#include "os/proc.h"
#include "os/signame.h"
#include "template/audit/descriptor.h"
#include "template/audit/heap_walk.h"
#include "template/audit/mapping.h"

#include <dirent.h>
#include <lauxlib.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

enum { TEXT_MAX = 384 };

struct telling {
  lua_State *L;
  struct audit *a;
  audit_found *found;
  void *data;
  int count;
};

static void tell_finding(const struct finding *f, void *data) {
  struct telling *t = data;
  t->found(f, t->data);
  t->count++;
}

/* by: who is known to have brought it, whose name the text has already. */
static void tell(struct telling *t, enum audit_kind kind, int fd, audit_name by,
                 const char *format, ...) __attribute__((format(printf, 5, 6)));
static void tell(struct telling *t, enum audit_kind kind, int fd, audit_name by,
                 const char *format, ...) {
  char text[TEXT_MAX];
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  tell_finding(&(struct finding){kind, fd, audit_module(t->a, by), text}, t);
}

/* ---- descriptors and mappings ---- */

static void tell_descriptor(int fd, void *data) {
  struct telling *t = data;
  struct audit *a = t->a;
  enum audit_kind kind;
  const char *how;
  char what[DESCRIPTOR_TEXT_MAX], by[AUDIT_NAME_MAX + 32];
  if ((a->is_ours && a->is_ours(fd, a->data)) || fd_is_labelled_loop(fd))
    return;
  audit_name owner = audit_owner(a, fd);
  audit_of(a, owner, by, sizeof by);
  if (descriptor_look(fd, &kind, what, sizeof what))
    tell(t, kind, fd, owner, "descriptor %d is %s%s", fd, what, by);
  if (descriptor_lock(fd, &how))
    tell(t, AUDIT_LOCK, fd, owner, "descriptor %d%s holds a lock (%s)", fd, by, how);
}

static void tell_mapping(enum audit_kind kind, const char *text, void *data) {
  tell(data, kind, -1, 0, "there is %s", text);
}

/* ---- timers and signals ---- */

static void tell_timers(struct telling *t, const struct audit_mark *now) {
  static const struct {
    int which;
    const char *signal;
  } timers[] = {
      {ITIMER_REAL, "SIGALRM"}, {ITIMER_VIRTUAL, "SIGVTALRM"}, {ITIMER_PROF, "SIGPROF"}};
  audit_name who = t->a->change[FACT_TIMERS].by;
  char by[AUDIT_NAME_MAX + 32];
  for (size_t i = 0; i < sizeof timers / sizeof *timers; i++)
    if (now->fact[FACT_TIMERS] >> timers[i].which & 1)
      tell(t, AUDIT_TIMER, -1, who, "an interval timer%s (%s) runs",
           audit_of(t->a, who, by, sizeof by), timers[i].signal);
  FILE *f = fopen("/proc/self/timers", "re");
  if (f == NULL)
    return;
  if (fgetc(f) != EOF)
    tell(t, AUDIT_POSIX_TIMER, -1, 0, "there is a POSIX timer (timer_create)");
  fclose(f);
}

/* "SIGPIPE", or how libc describes one without a name. */
static const char *signal_name(int number) {
  static char room[24];
  const struct signame *name;
  for (size_t i = 0; (name = signame_at(i)) != NULL; i++)
    if (name->number == number) {
      snprintf(room, sizeof room, "SIG%s", name->name);
      return room;
    }
  return strsignal(number);
}

static void tell_signals(struct telling *t, const struct audit_mark *now) {
  char by[AUDIT_NAME_MAX + 32];
  for (int i = 0; i < AUDIT_MARK_SIGNALS; i++) {
    int is_caught = now->caught >> i & 1;
    if (!is_caught && !(now->ignored >> i & 1))
      continue;
    audit_name who = t->a->signal_by[i];
    enum audit_kind kind = is_caught ? AUDIT_SIGNAL_HANDLER : AUDIT_SIGNAL_IGNORED;
    audit_of(t->a, who, by, sizeof by);
    if (who)
      tell(t, kind, -1, who, "%s %s signal %d (%s)", by + strlen(" of "),
           is_caught ? "handles" : "ignores", i + 1, signal_name(i + 1));
    else
      tell(t, kind, -1, 0, "signal %d (%s) %s", i + 1, signal_name(i + 1),
           is_caught ? "has a handler" : "is ignored");
  }
}

/* ---- what was changed ---- */

/* "module 'x' changed the working directory" */
static const struct {
  enum audit_kind kind;
  const char *text;
} changes[FACT_COUNT] = {
    [FACT_DIRECTORY] = {AUDIT_DIRECTORY_CHANGED, "changed the working directory"},
    [FACT_UMASK] = {AUDIT_UMASK, "changed the file mode mask (umask)"},
    [FACT_NICE] = {AUDIT_NICE, "changed the priority (nice)"},
    [FACT_AFFINITY] = {AUDIT_AFFINITY, "chose processors (sched_setaffinity)"},
    [FACT_CREDENTIALS] = {AUDIT_CREDENTIALS, "changed the user or group"},
    [FACT_GROUP] = {AUDIT_GROUP, "changed the process group or session"},
    [FACT_LIMITS] = {AUDIT_LIMITS, "changed a resource limit"},
    [FACT_LOCALE] = {AUDIT_LOCALE, "changed the locale"},
    [FACT_ENVIRONMENT] = {AUDIT_ENVIRONMENT, "changed the environment"},
    [FACT_SIGNAL_MASK] = {AUDIT_SIGNAL_MASK, "blocked or unblocked signals"},
    [FACT_SIGNAL_STACK] = {AUDIT_SIGNAL_STACK, "made a stack for signal handlers"},
    [FACT_COLLECTOR_STOPPED] = {AUDIT_COLLECTOR_STOPPED,
                                "stopped or restarted the garbage collector"},
    [FACT_COLLECTOR_MODE] = {AUDIT_COLLECTOR_MODE,
                             "changed the mode of the garbage collector"},
    [FACT_HOOK] = {AUDIT_HOOK, "set or removed a debug hook"},
    [FACT_RANDOM] = {AUDIT_RANDOM, "drew random numbers while it was loaded"},
    [FACT_EXIT_HANDLERS] = {AUDIT_EXIT_HANDLER, "registered an exit handler (atexit)"},
    [FACT_FORK_HANDLERS] = {AUDIT_FORK_HANDLER,
                            "registered a fork handler (pthread_atfork)"},
};

static int is_told(const struct audit *a, const struct audit_mark *now, int fact) {
  if (!changes[fact].text || !a->change[fact].by ||
      now->fact[fact] == a->change[fact].from)
    return 0;
  switch (fact) {
  case FACT_COLLECTOR_STOPPED:
  case FACT_HOOK:
    return now->fact[fact] != 0;
  case FACT_RANDOM: /* a seed has its own finding, and may be random itself */
    return !(a->names[a->change[fact].by].calls & 1u << AUDIT_CALL_SEED);
  }
  return 1;
}

static void tell_changes(struct telling *t, const struct audit_mark *now) {
  for (int i = 0; i < FACT_COUNT; i++) {
    audit_name who = t->a->change[i].by;
    char by[AUDIT_NAME_MAX + 32];
    if (is_told(t->a, now, i))
      tell(t, changes[i].kind, -1, who, "%s %s",
           audit_of(t->a, who, by, sizeof by) + strlen(" of "), changes[i].text);
  }
}

/* "1234 5678 ", as the kernel has them, where it tells. */
static void read_children(char *ret, size_t n) {
  ret[0] = '\0';
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
  FILE *f = fopen(path, "re");
  if (!f)
    return;
  if (!fgets(ret, (int)n, f))
    ret[0] = '\0';
  fclose(f);
  ret[strcspn(ret, "\n")] = '\0';
  for (size_t i = strlen(ret); i > 0 && ret[i - 1] == ' '; i--)
    ret[i - 1] = '\0';
}

/* Programs that a module has started in the background are nobody's children, but of the
 * process group, where that is the template's own. */
static void tell_background(struct telling *t) {
  pid_t group = getpid();
  if (getpgrp() != group || !proc_lists_ours())
    return;
  DIR *dir = opendir("/proc");
  struct dirent *entry;
  while (dir && (entry = readdir(dir)) != NULL) {
    char path[280], line[400], name[32];
    int pid, parent, of_group;
    snprintf(path, sizeof path, "/proc/%s/stat", entry->d_name);
    FILE *f =
        entry->d_name[0] >= '1' && entry->d_name[0] <= '9' ? fopen(path, "re") : NULL;
    if (f && fgets(line, sizeof line, f) &&
        sscanf(line, "%d (%31[^)]) %*c %d %d", &pid, name, &parent, &of_group) == 4 &&
        of_group == group && pid != group && parent != group)
      tell(t, AUDIT_CHILD, -1, 0, "a program runs in the background (pid %d, %s)", pid,
           name);
    if (f)
      fclose(f);
  }
  if (dir)
    closedir(dir);
}

static void tell_children(struct telling *t, const struct audit_mark *now) {
  audit_name who = t->a->change[FACT_CHILDREN].by;
  char pids[80], by[AUDIT_NAME_MAX + 32];
  if (!who || !now->fact[FACT_CHILDREN])
    return;
  read_children(pids, sizeof pids);
  tell(t, AUDIT_CHILD, -1, who, "there is a child process%s%s%s%s",
       audit_of(t->a, who, by, sizeof by), *pids ? " (pid " : "", pids, *pids ? ")" : "");
}

/* ---- watched calls ---- */

static void tell_seed(struct telling *t) {
  const struct audit *a = t->a;
  const char *module = audit_module(a, a->seed_by);
  if (a->seed_at[0] == '\0')
    return;
  if (module)
    tell(t, AUDIT_FIXED_SEED, -1, a->seed_by,
         "module '%s' gave math.randomseed a fixed seed (%s)", module, a->seed_at);
  else
    tell(t, AUDIT_FIXED_SEED, -1, 0, "math.randomseed got a fixed seed (%s)", a->seed_at);
}

static void tell_reads_of(struct telling *t, int first) {
  const struct audit *a = t->a;
  audit_name who = a->reads[first].by;
  char by[AUDIT_NAME_MAX + 32], list[160] = "";
  for (int i = first; i < a->nreads; i++)
    if (a->reads[i].by == who) {
      size_t n = strlen(list);
      snprintf(list + n, sizeof list - n, "%s%s", n ? ", " : "", a->reads[i].variable);
    }
  tell(t, AUDIT_ENVIRONMENT_READ, -1, who,
       "%s read the environment while it was loaded (%s)",
       audit_of(a, who, by, sizeof by) + strlen(" of "), list);
}

static void tell_reads(struct telling *t) {
  const struct audit *a = t->a;
  for (int i = 0; i < a->nreads; i++) {
    int is_first = 1;
    for (int k = 0; k < i && is_first; k++)
      is_first = a->reads[k].by != a->reads[i].by;
    if (is_first)
      tell_reads_of(t, i);
  }
}

static const struct {
  enum audit_call call;
  enum audit_kind kind;
  const char *text;
} calls[] = {
    {AUDIT_CALL_TMPNAME, AUDIT_TEMPORARY_NAME,
     "the name of a temporary file (os.tmpname)"},
    {AUDIT_CALL_PID, AUDIT_IDENTITY, "its process id (clone.pid)"},
    {AUDIT_CALL_ID, AUDIT_IDENTITY, "its identity (clone.id)"},
};

static void tell_calls(struct telling *t) {
  const struct audit *a = t->a;
  for (int i = 1; i <= a->nnames; i++)
    for (size_t k = 0; a->names[i].is_module && k < sizeof calls / sizeof *calls; k++)
      if (a->names[i].calls & 1u << calls[k].call)
        tell(t, calls[k].kind, -1, (audit_name)i,
             "module '%s' asked for %s while it was loaded", a->names[i].name,
             calls[k].text);
}

static void tell_replaced(struct telling *t) {
  for (int at = 0; audit_next_replaced(t->L, &at); lua_pop(t->L, 1))
    tell(t, AUDIT_REPLACED, -1, 0, "%s was replaced", lua_tostring(t->L, -1));
}

/* ---- all of it ---- */

int audit_findings(lua_State *L, struct audit *a, audit_found *found, void *data) {
  struct telling t = {.L = L, .a = a, .found = found, .data = data};
  struct audit_mark now;
  char room[160];
  luaL_checkstack(L, 8, NULL);
  lua_gc(L, LUA_GCCOLLECT);
  lua_gc(L, LUA_GCCOLLECT); /* what finalisers have let go of */
  int threads = proc_threads_at_rest();
  audit_mark_take(&now, L, &a->sources);
  audit_mark_add_realtime(&now, &a->sources);
  if (threads < 0)
    tell(&t, AUDIT_BLIND, -1, 0, "there is no /proc");
  if (threads > 1) {
    struct finding f = audit_thread_finding(a, threads, room, sizeof room);
    tell_finding(&f, &t);
  }
  fd_each(3, tell_descriptor, &t);
  mapping_each(tell_mapping, &t);
  tell_timers(&t, &now);
  tell_signals(&t, &now);
  tell_children(&t, &now);
  tell_background(&t);
  tell_changes(&t, &now);
  tell_seed(&t);
  tell_reads(&t);
  tell_calls(&t);
  tell_replaced(&t);
  heap_walk(L, tell_finding, &t);
  return t.count;
}
