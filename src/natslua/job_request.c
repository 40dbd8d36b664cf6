/* See job_request.h. */
#include "natslua/job_request.h"

#include "base/buf.h"
#include "bind/field.h"
#include "nats/beats.h"
#include "nats/error_headers.h"
#include <errno.h>
#include <inttypes.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct job_reply { /* whom an answer is for */
  mf_reply_cb cb;
  void *data;
  int has_id; /* of the caller's */
};

static struct job_reply *reply_new(mf_reply_cb cb, void *data) {
  struct job_reply *r = malloc(sizeof *r);
  if (r)
    *r = (struct job_reply){.cb = cb, .data = data};
  return r;
}

static void reply_with(struct job_reply *r, const mf_error *e, const char *text,
                       size_t length) {
  mf_message m = {.data = text, .length = length};
  r->cb(e, e ? NULL : &m, r->data);
  free(r);
}

/* A job that may be stored can only be asked for by who knows its id. */
static void on_posted(const mf_error *error, const char *id, size_t length, void *data) {
  struct job_reply *r = data;
  char text[512];
  mf_error e;
  if (error && error->started == MF_STARTED_UNKNOWN && !r->has_id) {
    e = *error;
    snprintf(text, sizeof text, "%.300s (the job may be stored: %s)", error->message, id);
    e.message = text;
    error = &e;
  }
  reply_with(r, error, id, length);
}

static void on_cancelled(const mf_error *error, int taken, void *data) {
  reply_with(data, error, taken ? "1" : "0", 1);
}

static void on_counted(const mf_error *error, const mf_jobs_info *i, void *data) {
  char text[300] = "";
  if (i)
    snprintf(text, sizeof text,
             "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64
             " %" PRIu64 " %s",
             i->waiting, i->delayed, i->running, i->redelivered, i->results, i->dead,
             i->leftover, i->stream);
  reply_with(data, error, text, strlen(text));
}

/* The string stays the table's. */
static const char *string_field(lua_State *L, int idx, const char *key, size_t *length) {
  lua_getfield(L, idx, key);
  const char *text = lua_tolstring(L, -1, length);
  lua_pop(L, 1);
  return text;
}

static int post(mf_far *far, lua_State *L, int idx, const mf_message *m,
                struct job_reply *r) {
  mf_job_options o = MF_JOB_OPTIONS_INIT;
  o.id = string_field(L, idx, "id", &o.id_length);
  r->has_id = o.id != NULL;
  o.delay_ms = (uint64_t)field_integer(L, idx, "delay", 0);
  o.tries = (unsigned)field_integer(L, idx, "tries", o.tries);
  o.lease_ms = (unsigned)field_integer(L, idx, "lease", o.lease_ms);
  o.timeout_ms = (unsigned)field_integer(L, idx, "timeout", 0);
  return mf_far_post(far, m, &o, on_posted, r);
}

static int begin(mf_far *far, lua_State *L, int idx, const mf_message *m,
                 struct job_reply *r, const char *what) {
  size_t length = 0;
  const char *id = string_field(L, idx, "id", &length);
  unsigned timeout_ms = (unsigned)field_integer(L, idx, "timeout", 0);
  if (strcmp(what, "post") == 0)
    return post(far, L, idx, m, r);
  if (strcmp(what, "cancel") == 0)
    return mf_far_cancel_job(far, id, length, timeout_ms, on_cancelled, r);
  return mf_far_jobs(far, timeout_ms, on_counted, r);
}

int job_request(mf_far *far, lua_State *L, int idx, const mf_message *m, mf_reply_cb cb,
                void *data) {
  size_t length = 0;
  const char *what = string_field(L, idx, "what", &length);
  if (!what)
    return -ENOTSUP;
  if (strcmp(what, "result") == 0) { /* its values are passed on as they are */
    const char *id = string_field(L, idx, "id", &length);
    return mf_far_result(far, id, length,
                         (unsigned)field_integer(L, idx, "timeout", MF_NO_TIMEOUT), cb,
                         data);
  }
  struct job_reply *r = reply_new(cb, data);
  int rc = r ? begin(far, L, idx, m, r, what) : -ENOMEM;
  if (rc < 0)
    free(r);
  return rc;
}

int job_request_count(struct beats *w, lua_State *L, int idx, mf_reply_cb cb,
                      void *data) {
  size_t length = 0;
  const char *subject = string_field(L, idx, "subject", &length);
  struct job_reply *r = reply_new(cb, data);
  int rc = r ? beats_count(w, subject ? subject : "",
                           (unsigned)field_integer(L, idx, "timeout", 0), on_counted, r)
             : -ENOMEM;
  if (rc < 0)
    free(r);
  return rc;
}

/* ---- dead letters ---- */

static int put_text(struct buf *b, const char *text) {
  return buf_put_str(b, text ? text : "", text ? strlen(text) : 0);
}

static int put_letter(struct buf *b, const char *id, size_t length, uint64_t tries,
                      const mf_error *e) {
  char number[24];
  snprintf(number, sizeof number, "%" PRIu64, tries);
  int rc = buf_put_str(b, id, length);
  rc = rc < 0 ? rc : put_text(b, number);
  rc = rc < 0 ? rc : put_text(b, error_name(e->code));
  rc = rc < 0 ? rc : put_text(b, e->message);
  return rc < 0 ? rc : put_text(b, e->traceback);
}

/* One string, as the serialiser writes it: an array of one str 32, or its length first.
 */
static int put_head(struct buf *b, enum job_event_format format, uint32_t length) {
  const unsigned char head[] = {0x91,
                                0xdb,
                                (unsigned char)(length >> 24),
                                (unsigned char)(length >> 16),
                                (unsigned char)(length >> 8),
                                (unsigned char)length};
  if (format == JOB_EVENT_MSGPACK)
    return buf_put(b, head, sizeof head);
  return format == JOB_EVENT_STRING ? buf_put_u32(b, length) : 0;
}

static void on_dead(const char *id, size_t length, uint64_t tries, const mf_error *e,
                    void *data) {
  struct job_listener *l = data;
  struct buf letter, event;
  buf_init(&letter, UINT32_MAX);
  buf_init(&event, UINT32_MAX);
  if (put_letter(&letter, id, length, tries, e) == 0 &&
      put_head(&event, l->format, (uint32_t)buf_size(&letter)) == 0 &&
      buf_put(&event, buf_peek(&letter), buf_size(&letter)) == 0) {
    mf_message m = {.data = buf_peek(&event), .length = buf_size(&event)};
    l->cb(&m, l->data);
  }
  buf_deinit(&letter);
  buf_deinit(&event);
}

int job_request_listen(mf_far *far, struct job_listener *l) {
  return mf_far_on_dead(far, l ? on_dead : NULL, l);
}
