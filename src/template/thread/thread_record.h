/* What the files of this folder share: a clone that is a thread. Runs in templates. */
#ifndef TEMPLATE_THREAD_RECORD_H
#define TEMPLATE_THREAD_RECORD_H

#include "template/server/server.h"
#include "wire/life.h"
#include <semaphore.h>
#include <setjmp.h>

struct thread {
  struct server server;
  struct server *template;
  void (*live)(struct server *s);
  unsigned char *body; /* of the FORK: server.birth.options lies there */
  int code, killed;
  int ends;   /* that it will has been marked, for those who wait for it */
  int number; /* the kernel's */
  sem_t turn; /* made ahead: it is to read commands, or to end (thread_ready.c) */
  int dismissed;
  uint64_t id;
  jmp_buf end;
  size_t nwords;
  char words[LIFE_TEXT_MAX];
};

/* A record, and a copy of the interpreter (lazy: thread_copy.h); the command comes later.
 * NULL: refused, from->failure says why. */
struct thread *thread_new(struct server *from, void (*live)(struct server *s), int lazy);
/* has_fds: it has descriptors of its own, which are closed. */
void thread_free(struct thread *t, int has_fds);
/* What it was asked to do. body (taken) is the command's, fds are stolen. */
void thread_take_command(struct thread *t, const struct command *c, unsigned char *body);
/* Its own descriptors, directory and umask. 0 or an errno. */
int thread_part(const struct thread *t);
/* This thread is its, and runs its interpreter: once it has parted. Until
 * thread_enter_over or thread_live. */
void thread_enter(struct thread *t);
void thread_enter_over(void);
/* From its birth to its end. Frees it. */
void thread_live(struct thread *t);
/* One more runs from now on. On the thread that serves. */
void thread_count_begin(struct server *s);
/* One less. On any thread. */
void thread_count_end(struct server *template);
/* Starts run(data) on a new thread, which nobody joins. 0 or an errno. */
int thread_launch(void *(*run)(void *data), void *data);

#endif
