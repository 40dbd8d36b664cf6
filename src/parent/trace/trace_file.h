/* The file of a trace: a JSON array of objects that is whole at every moment, so that a
 * program may be killed at any time and its trace still be read.
 *
 *   [
 *   {...},
 *   {...},
 *   {...}         <- `at`: the next objects go here
 *                 blanks
 *   ]             <- `end`
 *
 * Objects are written over the blanks, several by one write(2). The kernel may cut a
 * write short where a page of the file begins (the program is killed, the disk is full),
 * so no object lies across the beginning of a page: what is written then are whole
 * objects. When the blanks are used up more are put behind the bracket, which then moves
 * to their end by two writes of a byte or two, between which it is missing; the readers
 * of traces don't ask for it. Bytes only: it knows nothing of what is in the objects, and
 * is used by one thread at a time. Runs in the parent. */
#ifndef PARENT_TRACE_FILE_H
#define PARENT_TRACE_FILE_H

#include <stddef.h>
#include <sys/stat.h>

enum {
  TRACE_PAGE = 4096,             /* no kernel has smaller ones */
  TRACE_BUFFER = 8 * TRACE_PAGE, /* bytes that are kept for one write */
  TRACE_GROWTH = 64 * TRACE_PAGE,
  TRACE_OBJECT_MAX = 2048
};

struct trace_file {
  int fd; /* -1: none */
  off_t at, end;
  int empty; /* no object yet */
  size_t n;  /* bytes of the buffer */
  char buffer[TRACE_BUFFER];
};

/* Makes the file, which appears with the array in it, or empties it. -EWOULDBLOCK:
 * another program writes a trace there; -EINVAL: it is no regular file. 0 or -errno, and
 * nothing has changed. */
int trace_file_open(struct trace_file *f, const char *path);
/* Appends an object of at most TRACE_OBJECT_MAX bytes; it is on the file at the latest
 * after the next flush. 0 or -errno. */
int trace_file_put(struct trace_file *f, const char *object, size_t n);
/* Writes what is in the buffer: one system call as a rule. 0 or -errno. */
int trace_file_flush(struct trace_file *f);
/* Flushes, cuts off the blanks and closes. 0 or -errno. */
int trace_file_close(struct trace_file *f);
/* Closes it as it is, whole but for the buffer: after an error, and in a forked copy,
 * where it only uses functions that are allowed there. */
void trace_file_abandon(struct trace_file *f);

#endif
