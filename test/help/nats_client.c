/* A caller in C, for stories about access to a NATS server:
 *
 *   nats_client URL SUBJECT [FIELD=VALUE]...
 *   FIELD: user, password, token, creds, ca, cert, key
 *
 * Makes a call and a stored job with the argument "x", waits for both, and prints a line
 * for each: the bytes that came, or the name of the error, what it says of `started`, and
 * its message. */
#include <moonfork/nats.h>
#include <stdio.h>
#include <string.h>
#include <uv.h>

enum { SECONDS = 30 };

static const mf_message request = {"\x91\xa1x", 3, NULL, 0};
static mf_far *far;

static void put_error(const char *what, const mf_error *e) {
  printf("%s: %s %s %s\n", what, mf_errname(e->code),
         e->started == MF_STARTED_NO ? "no" : "unknown", e->message);
}

static void put_reply(const char *what, const mf_error *error, const mf_message *reply) {
  if (error)
    put_error(what, error);
  else
    printf("%s: %.*s\n", what, (int)reply->length, (const char *)reply->data);
}

static void on_result(const mf_error *error, const mf_message *reply, void *data) {
  (void)data;
  put_reply("job", error, reply);
}

static void on_posted(const mf_error *error, const char *id, size_t length, void *data) {
  (void)data;
  if (error)
    put_error("job", error);
  else if (mf_far_result(far, id, length, SECONDS * 1000, on_result, NULL) != 0)
    printf("job: no result can be asked for\n");
}

static void on_reply(const mf_error *error, const mf_message *reply, void *data) {
  mf_job_options o = MF_JOB_OPTIONS_INIT;
  (void)data;
  put_reply("call", error, reply);
  o.timeout_ms = error ? 300 : SECONDS * 1000;
  if (mf_far_post(far, &request, &o, on_posted, NULL) != 0)
    printf("job: it can't be posted\n");
}

static void set_option(mf_nats_options *o, char *word) {
  const struct {
    const char *name;
    const char **field;
  } fields[] = {{"user", &o->user},   {"password", &o->password},
                {"token", &o->token}, {"creds", &o->creds},
                {"ca", &o->ca},       {"cert", &o->cert},
                {"key", &o->key}};
  char *value = strchr(word, '=');
  if (!value)
    return;
  *value++ = '\0';
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
    if (strcmp(fields[i].name, word) == 0)
      *fields[i].field = value;
}

int main(int argc, char **argv) {
  mf_nats_options o = MF_NATS_OPTIONS_INIT;
  if (argc < 3)
    return 2;
  o.url = argv[1];
  o.subject = argv[2];
  o.timeout_ms = SECONDS * 1000;
  for (int i = 3; i < argc; i++)
    set_option(&o, argv[i]);
  int rc = mf_far_new(NULL, &o, &far);
  if (rc < 0) {
    printf("new: %s\n", mf_errname(rc));
    return 1;
  }
  rc = mf_far_call(far, &request, NULL, on_reply, NULL, NULL);
  if (rc < 0)
    printf("call: %s\n", mf_errname(rc));
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
  mf_far_close(far, NULL, NULL);
  uv_run(uv_default_loop(), UV_RUN_DEFAULT);
  return uv_loop_close(uv_default_loop()) == 0 ? 0 : 3;
}
