/* A caller's side of stored jobs: stores them, asks for their results, takes them away.
 * Runs in the parent, on the loop's thread. doc/nats-protocol.md says what is said.
 *
 *   job_caller_new -> post, result, cancel, info, on_dead -> job_caller_close
 *
 * Each question has a deadline, until which it is asked again of an engine that can't be
 * reached, and one callback, from the loop. */
#ifndef NATS_JOB_CALLER_H
#define NATS_JOB_CALLER_H

#include "nats/engine.h"
#include <moonfork/nats.h>
#include <uv.h>

struct job_caller;

struct job_caller_options {
  const char *subject;         /* copied */
  size_t (*nodes)(void *data); /* how many nodes there are */
  void *data;
};
int job_caller_new(uv_loop_t *loop, struct engine *e, const struct job_caller_options *o,
                   struct job_caller **ret); /* -EINVAL, -ENOMEM */
/* The engine has another state than before. */
void job_caller_turn(struct job_caller *c);
/* What is under way ends with MF_ECANCELLED, later; then closed is called. */
void job_caller_close(struct job_caller *c, void (*closed)(void *data), void *data);
/* Who waits for a result gets MF_ECANCELLED, later; with all 1 so does everything. */
void job_caller_end(struct job_caller *c, int all);
size_t job_caller_pending(const struct job_caller *c);

struct job_post {
  const char *id; /* NULL: one that nobody has */
  size_t id_length;
  uint64_t delay_ms;
  unsigned tries, lease_ms;
};
/* id: also with an error, so that a job which may be stored can be asked for. */
/* These return 0, -EINVAL or -ENOMEM. timeout_ms: MF_NO_TIMEOUT is possible. */
int job_caller_post(struct job_caller *c, const struct job_post *post, const void *body,
                    size_t length, unsigned timeout_ms, mf_posted_cb cb, void *data);
int job_caller_result(struct job_caller *c, const char *id, size_t length,
                      unsigned timeout_ms, mf_reply_cb cb, void *data);
/* taken: it waited, and is gone. */
int job_caller_cancel(struct job_caller *c, const char *id, size_t length,
                      unsigned timeout_ms, mf_job_cancelled_cb cb, void *data);

int job_caller_count(struct job_caller *c, unsigned timeout_ms, mf_jobs_cb cb,
                     void *data);

/* For each job that is given up from now on; NULL: for none. */
int job_caller_on_dead(struct job_caller *c, mf_dead_cb cb, void *data);

#endif
