/* Requests of Lua about stored jobs: for core.foreign_ask and a far pool. Runs in the
 * parent. */
#ifndef NATSLUA_JOB_REQUEST_H
#define NATSLUA_JOB_REQUEST_H

#include <lua.h>
#include <moonfork/nats.h>

/* The table at idx has `what`:
 *   "post"    id, delay, tries, lease, timeout (milliseconds); m: the values. The id
 *   "result"  id, timeout. The values
 *   "cancel"  id, timeout. "1" or "0"
 *   "count"   timeout. The numbers of mf_jobs_info and the stream, with blanks between
 * Results as of foreign_ops.ask. -ENOTSUP: it is none of these. */
int job_request(mf_far *far, lua_State *L, int idx, const mf_message *m, mf_reply_cb cb,
                void *data);
/* {subject =, timeout =}: "count" of any subject. */
struct beats;
int job_request_count(struct beats *w, lua_State *L, int idx, mf_reply_cb cb, void *data);
/* Each dead letter becomes an event: one string, of five after their lengths
 * (string.pack's
 * "<s4"): id, tries, code, message, traceback. */
enum job_event_format { JOB_EVENT_MSGPACK, JOB_EVENT_STRING, JOB_EVENT_RAW };
struct job_listener {
  mf_event_cb cb;
  void *data;
  enum job_event_format format; /* how the pool's serialiser writes one string */
};
/* l is kept; NULL ends it. */
int job_request_listen(mf_far *far, struct job_listener *l);

#endif
