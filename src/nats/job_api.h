/* Requests to JetStream: plain subjects and JSON, so that nothing waits inside of
 * libnats. Both sides of stored jobs; runs in the parent, on the loop's thread.
 *
 *   job_api_request -> callback once, or job_api_cancel
 *
 * An acknowledgement of what was published to a stream is such an answer, too. */
#ifndef NATS_JOB_API_H
#define NATS_JOB_API_H

#include "nats/engine.h"
#include "nats/json.h"

enum { /* the server's own numbers of what it refuses */
       JOB_API_NO_STREAM = 10059,
       JOB_API_STREAM_DIFFERS = 10058,
       JOB_API_SUBJECT_TAKEN = 10065,
       JOB_API_CONSUMER_DIFFERS = 10148,
       JOB_API_CONSUMER_EXISTS = 10013,
       JOB_API_NO_MESSAGE = 10037,
       JOB_API_WRONG_SEQUENCE = 10071, /* the subject has another last message */
       JOB_API_ACCOUNT_FULL = 10002,
       JOB_API_SERVER_FULL = 10023,
       JOB_API_MEMORY_FULL = 10028,
       JOB_API_STORAGE_FULL = 10047,
       JOB_API_NOT_STORED = 10077, /* by a limit of the stream, or an error of the disk */
};

enum { JOB_API_TIMEOUT_MS = 2000 };

struct job_answer { /* valid during the callback */
  int code;         /* 0, or MF_EENGINE, MF_ETIMEOUT, MF_ELIMIT, MF_ECANCELLED */
  int refused;      /* code MF_EENGINE: the server's number, JOB_API_...; 0: no answer */
  int nobody;       /* code MF_EENGINE: nobody has the subject, so nothing came of it */
  const char *text; /* why, for a person; "" with code 0 */
  struct json body; /* code 0: the whole answer */
};
typedef void job_api_cb(const struct job_answer *a, void *data);

struct job_api_call;
/* 0 or -ENOMEM; the callback comes from the loop. ret may be NULL. */
int job_api_request(struct engine *e, const char *subject,
                    const struct engine_header *headers, size_t nheaders,
                    const void *data, size_t length, job_api_cb *cb, void *cb_data,
                    struct job_api_call **ret);
/* The same with a text. */
int job_api_ask(struct engine *e, const char *subject, const char *json, job_api_cb *cb,
                void *cb_data, struct job_api_call **ret);
/* No callback from here on. */
void job_api_cancel(struct job_api_call *c);

#endif
