/* Stored jobs of a far pool: the public functions over job_caller.h. Runs in the parent.
 */
#include "nats/caller_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { STORE_MS = 10000 }; /* of a far pool whose calls have no time limit */

void mf_job_options_init(mf_job_options *options) {
  if (options)
    *options = (mf_job_options)MF_JOB_OPTIONS_INIT;
}

/* 0, or why it takes nothing. */
static int check(const mf_far *far) {
  int rc = far_check(far);
  if (rc == 0 && (far->draining || far->closing || far->aborted))
    rc = MF_ECLOSED;
  return rc;
}

static unsigned limit(const mf_far *far, unsigned timeout_ms) {
  if (timeout_ms != 0)
    return timeout_ms;
  return far->timeout_ms != MF_NO_TIMEOUT ? far->timeout_ms : STORE_MS;
}

/* What goes wrong inside, as those who call from outside know it. */
static int outside(int rc) {
  return rc == -EINVAL ? MF_EINVAL : rc == -ENOMEM ? MF_ENOMEM : rc;
}

int mf_far_post(mf_far *far, const mf_message *request, const mf_job_options *given,
                mf_posted_cb cb, void *data) {
  mf_job_options o = MF_JOB_OPTIONS_INIT;
  struct job_post post;
  if (!request || (request->length > 0 && !request->data))
    return MF_EINVAL;
  int rc = check(far);
  if (rc < 0)
    return rc;
  if (given != NULL) {
    if (given->size < sizeof given->size)
      return MF_EINVAL;
    memcpy(&o, given, given->size < sizeof o ? given->size : sizeof o);
  }
  if (request->nfds > 0)
    return MF_EINVAL;
  post = (struct job_post){.id = o.id,
                           .id_length = o.id_length,
                           .delay_ms = o.delay_ms,
                           .tries = o.tries,
                           .lease_ms = o.lease_ms};
  return outside(job_caller_post(far->jobs, &post, request->data, request->length,
                                 limit(far, o.timeout_ms), cb, data));
}

int mf_far_result(mf_far *far, const char *id, size_t length, unsigned timeout_ms,
                  mf_reply_cb cb, void *data) {
  if (!id || !cb)
    return MF_EINVAL;
  int rc = check(far);
  if (rc < 0)
    return rc;
  return outside(job_caller_result(far->jobs, id, length, timeout_ms, cb, data));
}

int mf_far_cancel_job(mf_far *far, const char *id, size_t length, unsigned timeout_ms,
                      mf_job_cancelled_cb cb, void *data) {
  if (!id || !cb)
    return MF_EINVAL;
  int rc = check(far);
  if (rc < 0)
    return rc;
  return outside(
      job_caller_cancel(far->jobs, id, length, limit(far, timeout_ms), cb, data));
}

int mf_far_on_dead(mf_far *far, mf_dead_cb cb, void *data) {
  int rc = check(far);
  if (rc < 0)
    return rc;
  return outside(job_caller_on_dead(far->jobs, cb, data));
}

int mf_far_jobs(mf_far *far, unsigned timeout_ms, mf_jobs_cb cb, void *data) {
  if (!cb)
    return MF_EINVAL;
  int rc = check(far);
  if (rc < 0)
    return rc;
  return outside(job_caller_count(far->jobs, limit(far, timeout_ms), cb, data));
}
