/* One pool on a world without a kernel (help/far.h): what it was made with, what was
 * asked of it, what it told. */
#ifndef POOL_KIT_H
#define POOL_KIT_H

#include "help/far.h"
#include "parent/common/fork_watch.h"
#include "parent/pool/pool_record.h"
#include "parent/process/registry.h"
#include "parent/rpc/rpc.h"
#include "parent/start/boot.h"
#include "parent/start/default_template.h"
#include "unit.h"

enum { CALLS = 64 };

struct outcome {
  int told, code, started;
  char text[64];
};

extern struct sim *sim;
extern struct far *far;
extern struct context *context;
extern mf_pool *pool;
extern mf_pool_options options;
extern mf_rpc_options rpc_options;
extern struct outcome call[CALLS];
extern uint64_t id[CALLS];
extern char news[1000]; /* what on_worker was told */
extern int ncalls, errors, closes, gone, reloads, reload_code, drained, drain_code;

void on_error(const mf_error *e, void *data);
void on_close(void *data);
void on_reply(const mf_error *e, const mf_message *m, void *data);
void on_reloaded(mf_pool *p, const mf_error *e, void *data);
void on_drained(mf_pool *p, const mf_error *e, void *data);
void on_worker(int event, int pid, const char *reason, void *data);
void on_gone(mf_pool *p, void *data);
mf_process *make_template(void);
int prepare(void **state);
void begin(void);
int ask(const char *text, int idempotent);
void answer_all(void);
mf_pool_info stats(void);
int finish(void **state);

#define STORY(name) cmocka_unit_test_setup_teardown(name, prepare, finish)

#endif
