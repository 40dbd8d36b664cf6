/* The server of clones that are copied as they touch their memory (thread_lazy.h): a
 * thread that the kernel tells of each touch of memory that is missing (userfaultfd(2)),
 * its own accesses included, and that puts it in place. There is one for a process, from
 * the first such clone until there was none for a second, or faults_stop.
 *
 * The descriptor is in a table of descriptors that only this thread has (unshare(2)), so
 * nothing else can find, inherit or close it. Others ask the server by touching a page
 * that is missing on purpose, their bell: the kernel wakes the server, and lets them go on
 * when it has done what they want. Runs in templates. */
#ifndef TEMPLATE_THREAD_FAULTS_H
#define TEMPLATE_THREAD_FAULTS_H

#include "template/thread/thread_picture.h"

/* NULL: there can be one, or no descriptor is free to look it up. Else why not, and what to
 * do. Looked up once. */
const char *faults_reason(void);

enum faults_kind {
  FAULTS_NOTHING,
  FAULTS_REGISTER,   /* the clone's addresses; the ranges are put in place */
  FAULTS_FILL,       /* the range is put in place */
  FAULTS_UNREGISTER, /* the range is ordinary memory from now on */
  FAULTS_STOP
};

struct faults_request {
  enum faults_kind kind;
  struct lazy *lazy;
  const struct heap_range *ranges;
  size_t n;
  int error;
};

/* The bell of the thread that serves; clones have their own (lazy.bell). */
enum { FAULTS_TEMPLATE = 0 };

/* Gives the clone a bell; the server finds it from now on. 0, or -EAGAIN: there are as
 * many as can be. */
int faults_list(struct lazy *z);
/* The server looks at it no more. */
void faults_unlist(struct lazy *z);
/* Makes the server, where there is none. 0 or -errno. On the thread that serves. */
int faults_start(void);
/* Returns the request's error when it has been served. */
int faults_ask(size_t bell, struct faults_request request);
/* Ends the server, when there is no clone; waits until the kernel has forgotten it. */
void faults_stop(void);

#endif
