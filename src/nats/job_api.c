/* See job_api.h. */
#include "nats/job_api.h"

#include <errno.h>
#include <moonfork.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct job_api_call {
  struct engine *engine;
  struct engine_request *request;
  job_api_cb *cb;
  void *data;
};

static int is_full(int refused) {
  return refused == JOB_API_ACCOUNT_FULL || refused == JOB_API_SERVER_FULL ||
         refused == JOB_API_MEMORY_FULL || refused == JOB_API_STORAGE_FULL ||
         refused == JOB_API_NOT_STORED;
}

/* {"error": {"code": 404, "err_code": 10059, "description": "stream not found"}} */
static void read_refusal(struct json error, struct job_answer *a, char *text,
                         size_t size) {
  struct json v;
  int64_t n = -1;
  a->code = MF_EENGINE;
  if (json_get(error, "err_code", &v) == 0)
    json_integer(v, &n);
  a->refused = n > 0 && n < INT32_MAX ? (int)n : -1;
  if (json_get(error, "description", &v) < 0 || json_text(v, text, size) < 0)
    snprintf(text, size, "the NATS server refused, and does not say why");
  size_t length = strlen(text);
  if (is_full(a->refused))
    snprintf(
        text + length, size - length,
        " (the store is full, by a limit of the stream, the account or the server, or "
        "the disk is: remove what nobody needs, or raise the limit)");
}

static void on_answer(int code, const struct engine_message *m, void *data) {
  struct job_api_call *c = data;
  struct job_answer a = {.code = code, .text = ""};
  char text[400] = "";
  struct json error;
  if (code == 0 && json_read(m->data, m->length, &a.body) < 0) {
    a.code = MF_EENGINE;
    a.refused = -1;
    snprintf(text, sizeof text, "the NATS server answers with what is no JSON");
  } else if (code == 0 && json_get(a.body, "error", &error) == 0) {
    read_refusal(error, &a, text, sizeof text);
  } else if (code != 0 && m != NULL && m->no_responders) {
    a.nobody = 1;
    snprintf(text, sizeof text,
             "no stream there, or no JetStream (start nats-server with -js)");
  } else if (code == MF_ETIMEOUT) {
    snprintf(text, sizeof text, "the NATS server does not answer");
  } else if (code != 0) {
    snprintf(text, sizeof text, "%s", engine_reason(c->engine));
  }
  a.text = text;
  c->cb(&a, c->data);
  free(c);
}

int job_api_request(struct engine *e, const char *subject,
                    const struct engine_header *headers, size_t nheaders,
                    const void *data, size_t length, job_api_cb *cb, void *cb_data,
                    struct job_api_call **ret) {
  struct job_api_call *c = malloc(sizeof *c);
  int r;
  if (c == NULL)
    return -ENOMEM;
  *c = (struct job_api_call){.engine = e, .cb = cb, .data = cb_data};
  r = engine_request(e, subject, headers, nheaders, data, length, JOB_API_TIMEOUT_MS,
                     on_answer, c, &c->request);
  if (r < 0) {
    free(c);
    return r;
  }
  if (ret != NULL)
    *ret = c;
  return 0;
}

int job_api_ask(struct engine *e, const char *subject, const char *json, job_api_cb *cb,
                void *cb_data, struct job_api_call **ret) {
  return job_api_request(e, subject, NULL, 0, json, strlen(json), cb, cb_data, ret);
}

void job_api_cancel(struct job_api_call *c) {
  if (c == NULL)
    return;
  engine_request_cancel(c->request);
  free(c);
}
