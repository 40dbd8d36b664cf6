/* The streams and consumers of stored jobs: makes those that a node needs, and finds
 * those of a subject for a caller. Names: job_name.h. Runs in the parent.
 *
 * One setup is under way at a time; it is a row of requests, each once more in a second
 * where the server does not answer or refuses, until job_stream_end. */
#ifndef NATS_JOB_STREAM_H
#define NATS_JOB_STREAM_H

#include "nats/job_api.h"
#include "nats/job_name.h"

struct job_stream_names { /* borrowed strings */
  const char *subject, *stream;
};

/* A node gives a job that waits back at once. A server that was killed may have forgotten
 * that, and gives it out again after this time, so that it comes so much late at most. */
enum { JOB_LATER_ACK_MS = 3000 };

/* Makes streams and the consumer of jobs that wait, one after the other. keep_s: seconds
 * that results and dead letters are kept. The callback comes once: code 0, or what was
 * refused, with its reason in the text. */
struct job_setup;
int job_setup_start(struct engine *e, const struct job_stream_names *names,
                    uint64_t keep_s, job_api_cb *cb, void *data, struct job_setup **ret);
void job_setup_cancel(struct job_setup *s);

/* Makes the consumer of a lease, where it is not there. */
int job_lease_make(struct engine *e, const struct job_stream_names *names,
                   unsigned lease_ms, job_api_cb *cb, void *data,
                   struct job_api_call **ret);
/* Asks which consumers there are: "consumers" of the answer's body is a list of names. */
int job_lease_list(struct engine *e, const char *stream, job_api_cb *cb, void *data,
                   struct job_api_call **ret);
/* "lease-30000" -> 30000; 0 for others. */
unsigned job_lease_of(const char *consumer);
/* Asks which stream takes the subject: "streams" of the body is a list of names, empty
 * where there is none. */
int job_stream_find(struct engine *e, const char *subject, job_api_cb *cb, void *data,
                    struct job_api_call **ret);
/* The first of that list. -ENOENT. */
int job_stream_found(struct json body, char room[JOB_STREAM_MAX + 1]);

#endif
