/* One rpc on a world without a kernel (help/sim.h): what was asked of it, what it told.
 */
#ifndef RPC_KIT_H
#define RPC_KIT_H

#include "help/far.h"
#include "parent/common/fork_watch.h"
#include "parent/process/registry.h"
#include "parent/rpc/rpc.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "unit.h"

enum { CALLS = 128 * 1024 };

extern unsigned char whole_text[2 * FRAME_BODY_MAX]; /* of the answer to be kept */
extern size_t whole_length;

struct outcome {
  int told, code, started;
  int keep, thrown; /* thrown: the error has the value that far_error sends */
  char text[32];
};

struct story {
  struct sim *sim;
  struct far *far;
  struct context *context;
  mf_process *t;
  mf_rpc *rpc;
  mf_rpc_options options;
  struct outcome *call;
  uint64_t *id;
  int ncalls, in_call, ntold;
  int errors, error_code, error_started, closes, drains, events, gone;
  char order[64], last_event[32], error_text[200];
  int most_a_turn, this_turn;
};

void on_event(const mf_message *m, void *data);
void on_error(const mf_error *e, void *data);
void on_close(void *data);
void on_drain(void *data);

extern struct story *now;

void on_reply(const mf_error *e, const mf_message *m, void *data);
struct story *story_new(void);
void begin(struct story *s);     /* its rpc, with s->options */
struct story *story_begun(void); /* both, with the default options */
int call_with(struct story *s, const void *data, size_t n, unsigned timeout_ms);
int call(struct story *s, const char *text);
void on_gone(mf_rpc *rpc, void *data);

/* Closes everything, and nothing is left: no callback, no descriptor, nothing busy. */
void story_free(struct story *s);

#endif
