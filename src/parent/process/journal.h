/* What a template has been given since its program was started: enough to make another
 * one like it when it dies. A chain of entries, the latest first; processes that were
 * forked share what came before the fork. Runs in the parent, on the context's thread.
 *
 * NULL stands for a history that is not known to its beginning (a process taken up from a
 * descriptor, an early one), too long (ARGUMENTS_MAX, CODE_MAX) or not repeatable (a
 * handle, or a standard stream that leads to one: a copy kept here would keep its other
 * end waiting). It stays NULL whatever is added, and never makes an operation fail. */
#ifndef PARENT_JOURNAL_H
#define PARENT_JOURNAL_H

#include <moonfork.h>

struct process_command;
struct batch;
struct context;
struct journal;

enum {
  JOURNAL_ARGUMENTS_MAX = 1024 * 1024
}; /* bytes of string arguments and values in all */
enum { JOURNAL_CODE_MAX = 16 * 1024 * 1024 }; /* of everything else */

enum journal_root { JOURNAL_DEFAULT, JOURNAL_EXEC }; /* as by mf_new, by mf_new_exec */

struct journal *journal_new(enum journal_root root,
                            const mf_options *o); /* NULL: no memory */
struct journal *journal_hold(struct journal *j);
void journal_drop(struct journal **j);
/* Adds a command; those that prepare nothing are ignored. */
void journal_command(struct journal **j, const struct process_command *c);
/* The same with the commands that were batched with a fork which becomes a template after
 * all. */
void journal_batch(struct journal **j, const struct batch *batch);
/* The history of a fork of the process with history j, with options. */
struct journal *journal_fork(struct journal *j, const mf_options *o);
/* What is called with each entry, in the order of time; not 0 ends the reading. */
struct journal_reader {
  int (*begin)(void *data, enum journal_root root, const mf_options *o);
  int (*fork)(void *data, const mf_options *o);
  int (*command)(void *data, struct process_command *c);
};
/* j: known (not NULL). 0, -ENOMEM, or what a function has returned. */
int journal_read(const struct journal *j, const struct journal_reader *reader,
                 void *data);

#endif
