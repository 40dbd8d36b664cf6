/* The fork-safety audit: whether this process may be forked, and who is to blame if not.
 * Runs in templates (and clones that are templates). doc/fork-safety.md says what goes
 * wrong otherwise.
 *
 * Two things refuse a fork: a second thread, and an epoll or io_uring descriptor that is
 * not the library's own. The answer is remembered until audit_touch says that user code
 * has run, so between two forks the audit costs nothing and touches nothing.
 *
 * To name the culprit, the state before and after a module's load is compared: the
 * innermost require during which a thread or a descriptor appeared has brought it. */
#ifndef TEMPLATE_AUDIT_H
#define TEMPLATE_AUDIT_H

#include <lua.h>
#include <stddef.h>
#include <sys/types.h>

enum { AUDIT_REASON_MAX = 512, AUDIT_NAME_MAX = 64, AUDIT_SEEN_MAX = 128 };

/* What exists at a moment. */
struct audit_mark {
  int threads;
  unsigned char open[256]; /* a bit for each descriptor below 2,048 */
};

struct audit {
  int (*is_ours)(int fd, void *data); /* the library's own descriptors; may be NULL */
  void *data;
  int known, unsafe;
  char reason[AUDIT_REASON_MAX];
  int nthreads;                    /* accounted for */
  char threads_by[AUDIT_NAME_MAX]; /* who brought the last of them */
  char seed_at[AUDIT_NAME_MAX];    /* where math.randomseed got a fixed seed */
  struct audit_mark outermost;
  int nseen;
  struct audit_seen {
    int fd;
    dev_t device; /* so that a number used again accuses nobody */
    ino_t inode;
    char by[AUDIT_NAME_MAX];
  } seen[AUDIT_SEEN_MAX];
};

void audit_init(struct audit *a, int (*is_ours)(int fd, void *data), void *data);
/* Puts functions into package.searchers and math.randomseed that watch the ones that are
 * there (which they call), so that modules required by modules are named too. May raise
 * (memory). a lives as long as L. */
void audit_watch(struct audit *a, lua_State *L);
/* Around code whose effects shall bear a name: what a require inside did not account for.
 */
void audit_before(struct audit *a, lua_State *L);
void audit_after(struct audit *a, lua_State *L, const char *name);
/* User code has run: look again the next time. */
void audit_touch(struct audit *a);

/* 0: safe. Else nonzero, with the reason (what it is, and the module that brought it). */
int audit_check(lua_State *L, struct audit *a, char *reason, size_t n);

/* Threads of this process, or -errno (no /proc). */
int audit_count_threads(void);

enum audit_severity {
  AUDIT_REFUSES = 2, /* as audit_check: no fork */
  AUDIT_WARNS = 1,   /* clones would share or lose it */
  AUDIT_NOTES = 0    /* taken care of, but the module did not count on it */
};
/* Tells every finding, as a line without a newline. Returns how many. */
int audit_findings(lua_State *L, struct audit *a,
                   void (*found)(enum audit_severity severity, const char *line,
                                 void *data),
                   void *data);

#endif
