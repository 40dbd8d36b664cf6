/* The yardstick of calls over NATS: an echo in C with libnats alone, on a libuv loop by
 * its own adapter, and the caller to it. Subscriptions are synchronous and emptied after
 * each read, which is the fastest that libnats has. nats_echo serve URL SUBJECT nats_echo
 * call URL SUBJECT COUNT INFLIGHT SIZE */
#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void read_event(natsConnection *nc);
#define natsConnection_ProcessReadEvent(nc) read_event(nc)
#include <nats/adapters/libuv.h>
#undef natsConnection_ProcessReadEvent

static natsConnection *connection;
static natsSubscription *subscription;
static void (*on_message)(natsMsg *m);

static void ask(void);

static void read_event(natsConnection *nc) {
  natsMsg *m;
  natsStatus s;
  natsConnection_ProcessReadEvent(nc);
  while (subscription &&
         (s = natsSubscription_NextMsg(&m, subscription, 0)) != NATS_TIMEOUT) {
    if (s == NATS_NO_RESPONDERS) { /* the other is not there yet */
      uv_sleep(10);
      ask();
      continue;
    }
    if (s != NATS_OK)
      return;
    on_message(m);
    natsMsg_Destroy(m);
  }
}

static void check(natsStatus s, const char *what) {
  if (s == NATS_OK)
    return;
  fprintf(stderr, "nats_echo: %s: %s\n", what, natsStatus_GetText(s));
  exit(1);
}

static void open_connection(uv_loop_t *loop, const char *url, const char *subject,
                            void (*f)(natsMsg *m)) {
  natsOptions *o;
  natsLibuv_Init();
  natsLibuv_SetThreadLocalLoop(loop);
  check(natsOptions_Create(&o), "options");
  natsOptions_SetURL(o, url);
  natsOptions_SetSendAsap(o, true);
  check(natsOptions_SetEventLoop(o, loop, natsLibuv_Attach, natsLibuv_Read,
                                 natsLibuv_Write, natsLibuv_Detach),
        "loop");
  check(natsConnection_Connect(&connection, o), "connect");
  natsOptions_Destroy(o);
  on_message = f;
  check(natsConnection_SubscribeSync(&subscription, connection, subject), "subscribe");
  natsSubscription_SetPendingLimits(subscription, -1, -1);
}

static void echo(natsMsg *m) {
  natsConnection_Publish(connection, natsMsg_GetReply(m), natsMsg_GetData(m),
                         natsMsg_GetDataLength(m));
}

static const char *subject;
static char inbox[64], *body;
static long count, warmup, asked, answered, inflight, size;
static double began;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void ask(void) {
  check(natsConnection_PublishRequest(connection, subject, inbox, body, (int)size),
        "publish");
}

static void on_answer(natsMsg *m) {
  if (natsMsg_GetDataLength(m) != size)
    check(NATS_ERR, "a short answer");
  if (++answered == warmup)
    began = now();
  if (asked < warmup + count) {
    asked++;
    ask();
  }
  if (answered < warmup + count)
    return;
  printf("calls %ld\nseconds %.6f\n", count, now() - began);
  fflush(stdout);
  _Exit(0);
}

int main(int argc, char **argv) {
  uv_loop_t *loop = uv_default_loop();
  if (argc == 4 && strcmp(argv[1], "serve") == 0) {
    open_connection(loop, argv[2], argv[3], echo);
    return uv_run(loop, UV_RUN_DEFAULT);
  }
  if (argc != 7 || strcmp(argv[1], "call") != 0)
    return 2;
  subject = argv[3];
  count = atol(argv[4]);
  inflight = atol(argv[5]);
  size = atol(argv[6]);
  warmup = count / 5 + 1;
  body = calloc(1, (size_t)size + 1);
  snprintf(inbox, sizeof inbox, "_INBOX.bench%ld", (long)uv_os_getpid());
  open_connection(loop, argv[2], inbox, on_answer);
  for (; asked < inflight; asked++)
    ask();
  return uv_run(loop, UV_RUN_DEFAULT);
}
