/* The engine's record, for its own files: engine_life.c (states), engine_connect.c (the
 * attempt, in its thread), engine_sub.c (subscriptions and requests), engine_library.c
 * (libnats as a whole). Runs in the parent. */
#ifndef NATS_ENGINE_PRIVATE_H
#define NATS_ENGINE_PRIVATE_H

#include "base/idmap.h"
#include "base/list.h"
#include "nats/engine.h"
#include <nats/nats.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

enum {
  ENGINE_ID = 22,
  REASON_MAX = 320,
  MAIL_MAX = 4096,          /* statuses that wait for the loop */
  UNWRITTEN_MAX = 64 << 20, /* bytes */
  PING_MS = 1000,           /* between looks whether the server still speaks */
  PINGS_MAX = 3,            /* of them without a word end the connection */
  CONNECT_MS = 2000,        /* an attempt's patience with each server */
  HANDSHAKE_MS = 4000,      /* and with its TLS handshake */
  RETRY_MIN_MS = 50,
  RETRY_MAX_MS = 1000,
  CLOSE_MS = 1000,   /* that a closing engine writes */
  READS_MAX = 100000 /* until a connection that was shut has ended */
};

/* What other threads leave for the loop. Lives as long as anyone refers to it. */
struct mailbox {
  pthread_mutex_t mutex;
  unsigned refs;
  uv_async_t *wake; /* NULL: nobody takes anything out any more */
  struct list mail;
  unsigned waiting;
  /* Of the connection, whose adapter has this for its user data. In the attempt's thread
   * until `tried`, then the loop's: */
  natsSock fd;
  atomic_int writing; /* libnats waits until the socket takes bytes; any thread */
  pthread_t loop_thread;
  int lost;         /* libnats has closed it */
  uv_poll_t *poll;  /* NULL: the loop does not watch it */
  int is_abandoned; /* the engine is gone: the thread closes the library */
  int is_secure;    /* its attempt counts as one with TLS, by the URL or the server */
  /* Of the attempt: */
  struct list attempt;   /* of those under way: engine_handshake.c */
  const void *ssl;       /* the last that began a handshake */
  natsSock handshake_fd; /* its socket, as long as it may be shut down; or -1 */
  uint64_t handshake_ms;
  int was_late; /* its handshake was cut */
  int tried;
  natsStatus status;
  natsConnection *nc;
  char text[REASON_MAX];
};

struct mail {
  struct list link;
  uint64_t sub;
  natsMsg *msg;
};

/* The closure of a subscription that libnats delivers by a thread. */
struct post {
  struct mailbox *box;
  uint64_t sub;
};

/* What is shown to a server with accounts. */
struct engine_creds {
  char *text; /* that the others are in; NULL: no credentials */
  const char *token, *seed;
  int needs_other; /* libnats can't send a signature of this connection */
};

/* What a thread that connects has. */
struct attempt {
  struct mailbox *box;
  struct engine_options o;
  struct engine_creds creds;
  char *servers; /* a copy, cut at its commas */
};

struct engine_sub {
  struct list link;
  struct engine *engine; /* NULL: it was closed */
  uint64_t id;
  char *subject;
  int flags;
  engine_message_cb *cb;
  void *data;
  natsSubscription *nats; /* NULL: not UP */
};

struct engine_request {
  struct list link;
  struct engine *engine;
  uint64_t id;
  uint64_t deadline; /* of uv_now; 0: it is to be told `code` in the next turn */
  int code;
  engine_answer_cb *cb;
  void *data;
};

struct engine {
  uv_loop_t *loop;
  uv_async_t wake;
  uv_timer_t timer;  /* the next attempt, or the next look at the connection */
  uv_timer_t expiry; /* of requests */
  uv_idle_t flush;   /* active while something was published in this turn */
  uv_poll_t *poll;   /* NULL: no connection */
  unsigned handles;  /* of the loop, that are not closed yet */
  unsigned holds;
  pid_t made_by;
  enum engine_state state;
  int closing; /* 1: since it was asked for; 2: since its handles are being closed */
  int tls, refused, was_up, has_tried, watches_writing, is_abandoned;
  int said_goodbye; /* the server has read all that was published before the close */
  unsigned retry_ms, silent;
  struct engine_options o;
  char *discovered; /* servers that the last one told of, with commas; or NULL */
  char id[ENGINE_ID + 1], reason[REASON_MAX];
  size_t max_payload;
  struct mailbox *box;
  pthread_t thread;
  int connecting; /* thread is to be joined */
  natsConnection *nc;
  struct list subs;
  struct idmap ids;    /* subscriptions by the number that mail has */
  unsigned reading;    /* a subscription's messages are given out: none is freed */
  struct list removed; /* those that were unsubscribed meanwhile */
  struct list requests;
  uint64_t nrequests;
  struct engine_sub *answers, *pings;
  struct list fences;
  uint64_t nfences, passed;
  void (*on_flush)(void *data);
  void *flush_data;
  engine_state_cb *on_state;
  void *data;
  void (*on_closed)(void *data);
  void *closed_data;
  struct engine_stats stats;
};

/* engine_library.c */
int engine_library_open(void); /* 0 or -errno; each success needs one close */
void engine_library_close(void);
/* An attempt with TLS is under way between these, and the process does not exit before
 * it is over; ready: OpenSSL has been initialised. Any thread. */
void engine_secure_begin(void);
void engine_secure_ready(void);
void engine_secure_end(void);

/* Between these libnats has a subscription that ends by one of its threads. Any thread. */
void engine_post_begin(void);
void engine_post_end(void);

/* Between these a write to a socket that the server has closed raises no SIGPIPE in this
 * thread. */
struct engine_quiet {
  sigset_t mask;
  int was_pending;
};
void engine_quiet_begin(struct engine_quiet *q);
void engine_quiet_end(const struct engine_quiet *q);

/* engine_connect.c */
int engine_options_copy(struct engine_options *to, const struct engine_options *from);
void engine_options_free(struct engine_options *o);
int engine_wants_tls(const struct engine_options *o);
int engine_attempt(struct engine *e); /* starts the thread. 0 or -errno */
struct mailbox *mailbox_new(uv_async_t *wake);
void mailbox_drop(struct mailbox *box);

/* engine_handshake.c */
/* Around an attempt, in its thread. */
void engine_handshake_begin(struct mailbox *box);
void engine_handshake_end(struct mailbox *box);
/* Ends the TLS handshake that began so long ago, if there is one. */
void engine_handshake_cut(struct mailbox *box, unsigned after_ms);
/* Ends all, and those that begin from now on. */
void engine_handshake_exit(void);

/* engine_creds.c */
/* 0, or -1 and what is wrong with that file. Needs engine_creds_free in either case. */
int engine_creds_read(const char *path, struct engine_creds *c, char *ret_fault,
                      size_t size);
/* The options borrow it, as long as a connection is being made with them. */
natsStatus engine_creds_set(struct engine_creds *c, natsOptions *opts);
/* Connects, also by options without credentials. */
natsStatus engine_creds_connect(struct engine_creds *c, natsConnection **nc,
                                natsOptions *opts);
void engine_creds_free(struct engine_creds *c);

/* engine_login.c */
struct engine_login {
  char *name, *user, *password, *token; /* NULL: none */
};
/* Also of what stands in the URLs, which is cut out of them where it is one user's. 0, or
 * -1: no memory. */
int engine_login_make(const struct engine_options *o, char **servers, int n,
                      struct engine_login *login);
void engine_login_free(struct engine_login *login);

/* engine_sub.c */
void engine_subs_up(struct engine *e);
void engine_subs_down(struct engine *e);
void engine_read_subs(struct engine *e);
void engine_take_mail(struct engine *e);
void engine_fail_requests(struct engine *e, int code);
void engine_subs_free(struct engine *e);
void engine_ping(struct engine *e); /* with the number of the newest fence */
void engine_fences_down(struct engine *e, uint64_t number); /* those up to it */

#endif
