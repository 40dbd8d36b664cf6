/* One question of a caller, for job_life.c (life, deadlines, errors), job_post.c and
 * job_ask.c (what is asked). */
#ifndef NATS_JOB_CALLER_PRIVATE_H
#define NATS_JOB_CALLER_PRIVATE_H

#include "base/list.h"
#include "nats/job_caller.h"
#include "nats/job_stream.h"

enum { ASK_AGAIN_MS = 250, ACTIVE_MAX = 256, LEASES_KNOWN_MAX = 32 };

struct job_caller {
  uv_loop_t *loop;
  struct engine *engine;
  struct job_caller_options o;
  char *subject;
  char stream[JOB_STREAM_MAX + 1];            /* "": it is to be asked for */
  unsigned leases[LEASES_KNOWN_MAX], nleases; /* whose consumers are there */
  int results_serve; /* the stream of results has answered a direct read */
  struct list asks;
  size_t nasks;
  size_t nactive; /* that ask something now; others wait for their turn */
  int is_full;    /* some did */
  unsigned serial;
  struct job_api_call *call; /* that many wait for: the stream, or a consumer */
  unsigned lease_asked;
  int is_closing;
  struct engine_sub *dead;
  mf_dead_cb dead_cb;
  void *dead_data;
  uv_timer_t timer;
  void (*closed)(void *data);
  void *closed_data;
};

/* What a step does next: it asks something, and goes on in the answer. */
struct job_ask;
typedef void job_step(struct job_ask *a);

struct job_ask {
  struct list link;
  struct job_caller *caller;
  uint64_t deadline, again_at; /* again_at 0: an answer is awaited, or a message */
  job_step *step;              /* to be done once the stream is known, and again */
  job_step *drop;              /* frees what the kind has beside the record; or NULL */
  void (*fail)(struct job_ask *a, const mf_error *e); /* the callback */
  int may_be_sent;                                    /* an error says "unknown" */
  int is_cancelled;
  int is_active;
  int waits;     /* for the caller's request */
  int times_out; /* the end of its time is MF_ETIMEOUT, whatever hindered it */
  char reason[JOB_SUBJECT_MAX + 100]; /* why it was not answered, so far */
  struct job_api_call *call;
  struct engine_request *request;
  struct engine_sub *sub;
  char id[JOB_ID_MAX + 1];
  size_t id_length;
  char word[JOB_WORD_SIZE];
  void *data; /* of the callback */
  union {
    struct {
      struct job_post options;
      mf_posted_cb cb;
      unsigned char *body;
      size_t length;
      uint64_t at_ms; /* when its time has come */
      int was_looked_up;
      unsigned read_ms; /* how long it waited for the last direct read */
      int was_lost;     /* it was published, and nobody said what came of it */
    } post;
    struct {
      mf_reply_cb cb;
      int once, said; /* once: looks, and does not wait */
    } result;
    struct {
      mf_job_cancelled_cb cb;
      size_t answers;
      int is_running, is_moving;
      int was_asked, is_deleted, was_noted; /* was_asked: before it is deleted */
      int was_due;                          /* it waited for a node, not for its time */
    } cancel;
    struct {
      mf_jobs_cb cb;
      mf_jobs_info counts;
      uint64_t messages;
    } count;
  } u;
};

/* A record whose id is that; step and fail are to be set before ask_start. -EINVAL. */
int ask_new(struct job_caller *c, const char *id, size_t length, unsigned timeout_ms,
            struct job_ask **ret);
void ask_start(struct job_ask *a);
/* It waits for a message, not for an answer. */
void ask_rest(struct job_ask *a);
/* Whether that lease has a consumer; else it is made, and the step done again after it.
 */
int ask_has_lease(struct job_ask *a, unsigned lease_ms);
/* Does the step again, a little later. what: for the error at the deadline. */
void ask_again(struct job_ask *a, const char *what);
/* As an answer wants it: again, from the beginning where the stream is gone, or the end
 * with an error. */
void ask_refused(struct job_ask *a, const struct job_answer *answer);
/* Frees the record; its callback is to be called after it, with copies. */
void ask_end(struct job_ask *a);
void ask_fail(struct job_ask *a, int code, const char *text);
/* SUBJECT.WHAT.ID */
void ask_subject(const struct job_ask *a, const char *what, char room[JOB_NAME_SIZE]);

#endif
