/* The fork-safety audit: whether this process may be forked, what else a fork of it would
 * get wrong, and who is to blame. Runs in templates (and clones that are templates).
 * doc/doctor.md lists the findings, doc/fork-safety.md says what goes wrong otherwise.
 *
 * Two things refuse a fork: a second thread, and an epoll or io_uring descriptor that is
 * not the library's own (those of a parent's side inside the template have a label,
 * os/fd.h). The answer is remembered until audit_touch says that user code
 * has run, so between two forks the audit costs nothing and touches nothing.
 *
 * To name the culprit, the state before and after a module's load is compared
 * (audit_mark.h): the innermost require during which something appeared has brought it.
 * Calls that leave no trace, of os.getenv, os.tmpname and math.randomseed, are watched
 * while modules are loaded. */
#ifndef TEMPLATE_AUDIT_H
#define TEMPLATE_AUDIT_H

#include "template/audit/audit_mark.h"
#include "template/audit/finding.h"

#include <lua.h>
#include <stddef.h>
#include <sys/types.h>

enum {
  AUDIT_REASON_MAX = 512,
  AUDIT_NAME_MAX = 64,
  AUDIT_SEEN_MAX = 128,
  AUDIT_NAMES_MAX = 128,
  AUDIT_READS_MAX = 64
};

/* Calls that leave no trace; of modules, while they are loaded. */
enum audit_call { AUDIT_CALL_SEED, AUDIT_CALL_TMPNAME, AUDIT_CALL_PID, AUDIT_CALL_ID };

typedef unsigned char audit_name; /* of audit.names; 0: nobody known */

struct audit {
  int (*is_ours)(int fd, void *data); /* the library's own descriptors; may be NULL */
  void *data;
  struct audit_mark_sources sources;
  int known, unsafe;
  char reason[AUDIT_REASON_MAX];
  int nthreads;                 /* accounted for */
  audit_name threads_by;        /* who brought the last of them */
  audit_name loading;           /* what is loaded now, the innermost */
  char seed_at[AUDIT_NAME_MAX]; /* where math.randomseed got a fixed seed */
  audit_name seed_by;
  audit_name signal_by[AUDIT_MARK_SIGNALS];
  struct audit_change {
    audit_name by; /* 0: not changed */
    uint64_t from;
  } change[FACT_COUNT];
  struct audit_mark outermost;
  int nseen, nreads, nnames;
  struct audit_seen {
    int fd;
    dev_t device; /* so that a number used again accuses nobody */
    ino_t inode;
    audit_name by;
  } seen[AUDIT_SEEN_MAX];
  struct audit_read { /* of the environment */
    audit_name by;
    char variable[40];
  } reads[AUDIT_READS_MAX];
  struct audit_who {
    int is_module;
    unsigned calls; /* a bit for each enum audit_call */
    char name[AUDIT_NAME_MAX];
  } names[AUDIT_NAMES_MAX];
};

void audit_init(struct audit *a, int (*is_ours)(int fd, void *data), void *data);
/* Puts functions into package.searchers, math.randomseed, os.getenv and os.tmpname that
 * watch the ones that are there, so that modules required by modules are named too. May
 * raise (memory). a lives as long as L. */
void audit_watch(struct audit *a, lua_State *L);
/* Around the save of L as an image: puts into it what the audit knows of it, and takes it
 * out again. May raise (memory). */
void audit_keep(const struct audit *a, lua_State *L);
void audit_keep_end(lua_State *L);
/* In the place of audit_watch where L was watched when it was saved. May raise. */
void audit_resume(struct audit *a, lua_State *L);
/* Around a command whose effects shall bear a name: what a require inside did not account
 * for. is_module: it loads that module; else name is the command's. */
void audit_before(struct audit *a, lua_State *L, const char *name, int is_module);
void audit_after(struct audit *a, lua_State *L, const char *name, int is_module);
/* What is loaded now has called it. Cheap. */
void audit_note_call(struct audit *a, enum audit_call call);
/* User code has run: look again the next time. */
void audit_touch(struct audit *a);

/* 0: safe. Else nonzero, with the reason (what it is, and the module that brought it). */
int audit_check(lua_State *L, struct audit *a, char *reason, size_t n);
/* Tells every finding. May raise (memory), and collects garbage first, so that what only
 * garbage holds is not told. Returns how many. */
int audit_findings(lua_State *L, struct audit *a, audit_found *found, void *data);

/* For findings.c: who has the number, as text (" of module 'x'", " of code given to
 * eval", "") and as a module's name or NULL. */
const char *audit_of(const struct audit *a, audit_name by, char *text, size_t n);
const char *audit_module(const struct audit *a, audit_name by);
/* Who brought the descriptor; 0: not known. */
audit_name audit_owner(struct audit *a, int fd);
/* The finding of more than one thread; its text goes to room. */
struct finding audit_thread_finding(const struct audit *a, int threads, char *room,
                                    size_t n);
/* The functions of moonfork's own that somebody has replaced: pushes the name of the next
 * one after *at and returns 1, or 0. */
int audit_next_replaced(lua_State *L, int *at);

#endif
