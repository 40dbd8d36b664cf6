/* The names of stored jobs: subjects, streams, consumers, and the words in them. Pure;
 * doc/nats-protocol.md is the same for a reader. Both sides, in the parent.
 *
 * SUBJECT is what a node and its callers are given, STREAM what the node calls its jobs.
 *
 *   SUBJECT.job.LEASE.ID     a job                      stream STREAM, a work queue
 *   SUBJECT.later.LEASE.ID   one whose time has not come      the same
 *   SUBJECT.done.ID          a result                   stream STREAM_done
 *   SUBJECT.dead             a job without tries left   stream STREAM_dead
 *   SUBJECT.has              who works at job ID?       no stream
 *   SUBJECT.lease            a consumer was made        no stream
 *
 * LEASE: milliseconds; each has a consumer of its own, lease-LEASE, because how long a
 * message may be out is a property of consumers. Jobs that wait for their time have the
 * consumer later. */
#ifndef NATS_JOB_NAME_H
#define NATS_JOB_NAME_H

#include <stddef.h>
#include <stdint.h>

enum {
  JOB_ID_MAX = 128,                   /* bytes of an id */
  JOB_WORD_SIZE = 3 * JOB_ID_MAX + 1, /* of an id in a subject, with its NUL */
  JOB_STREAM_MAX = 64,
  JOB_SUBJECT_MAX = 200,                                /* bytes of SUBJECT */
  JOB_NAME_SIZE = JOB_SUBJECT_MAX + JOB_WORD_SIZE + 64, /* of any name made here */
  JOB_LEASE_MIN = 100,
  JOB_LEASE_MAX = 24 * 3600 * 1000
};

/* The id as a token of a subject: letters, digits, - and _ stay, other bytes become %XX.
 * -EINVAL: no bytes, or more than JOB_ID_MAX. */
int job_word(const char *id, size_t length, char room[JOB_WORD_SIZE]);
/* The other way; the number of bytes, or -EINVAL. The result has a NUL behind it. */
int job_unword(const char *word, size_t length, char room[JOB_ID_MAX + 1]);
/* Letters, digits, - and _: what a stream may be called here. */
int job_is_stream(const char *name);

/* What the server says about a delivery in the subject of its acknowledgement:
 * $JS.ACK.STREAM.CONSUMER.DELIVERED.SEQUENCE..., with two tokens more in later versions.
 */
struct job_delivery {
  uint64_t count;    /* 1: the first */
  uint64_t sequence; /* of the message in its stream */
  uint64_t at_ms;    /* when it was stored, since 1970, by the server's clock */
};
int job_delivery(const char *reply, struct job_delivery *ret); /* -EPROTO */

/* SUBJECT.job.LEASE.ID or SUBJECT.later.LEASE.ID, after SUBJECT and its dot. */
struct job_subject {
  int is_later;
  unsigned lease_ms;
  const char *word; /* inside of the text that was given */
};
int job_subject(const char *rest, struct job_subject *ret); /* -EPROTO */

/* How long a job that failed waits for its next try: 100 ms, and each time twice as long,
 * up to 10 s. */
unsigned job_backoff_ms(uint64_t tries);

#endif
