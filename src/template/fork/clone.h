/* The birth of a clone: fork, and the numbered steps after it (doc/design.md). */
#ifndef TEMPLATE_FORK_CLONE_H
#define TEMPLATE_FORK_CLONE_H

#include "template/server/server.h"

/* Whether c is a whole FORK; its options. */
int clone_parse_fork(struct options *o, const struct command *c);
/* Forks as they say. 0: a clone was made; SERVED_BORN: this process is it; -1: refused,
 * s->failure says why. Steals descriptors. */
int clone_fork(struct server *s, const struct options *o, struct fdset *fds,
               int *ret_sibling);
/* In the new process, out of the server loop: all steps up to the inner commands, which
 * wait in s->birth. */
void clone_born(struct server *s);
/* Options of SETUP or FORK for this process; stdio handles are taken from fds (from its
 * first on), and the leash of a tree (-1: the one that is there). 0, or -1: failed, and
 * said so. */
int clone_apply_options(struct server *s, const struct options *o, int leash,
                        struct fdset *fds);
/* Hooks, where there are any: 0, or -1 with s->failure set. */
int clone_before_fork(struct server *s);
/* What has to happen in the process before a fork: stdio flushed, sealed, dispositions
 * noted. 0 or -ENOMEM. */
int clone_prepare_fork(struct server *s);
/* Inside the child, before anything else runs: signals, heap, seal, leash, children. */
void clone_after_fork(struct server *s);
/* Looks whether it is safe to fork, as the level in force says. 0, or -1 with s->failure
 * set. */
int clone_audit(struct server *s);
/* Sets the level (enum mf_seal_flags; 0: leaves it) and tells the findings that it asks
 * for. User code may run (finalisers). The same result. */
int clone_audit_aloud(struct server *s, int level);

/* How many clones in threads run. Those that have told their end may still be counted: they
 * are waited for. What is kept for the next ones goes where none is left. */
int clone_await_threads(const struct server *s);

#endif
