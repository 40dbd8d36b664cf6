/* A process exits while libmoonfork-nats still has threads.
 *
 * Once the test of the library was ended by SIGSEGV, in a package build, and never again
 * in hundreds of runs: it had aborted a caller whose connection was being made, so the
 * thread of that attempt was the last that used libnats, and closed it while main
 * returned. libnats frees its lock at exit when it has no users, and that is so before
 * its last thread has used the lock for the last time. Here that thread waits in between,
 * and exit after it.
 *
 * libnats also forgets what its threads have not delivered yet when it is closed, the ends
 * of subscriptions among it, and then never frees those and their connection. Here its
 * messages are counted. */
#include "unit.h"

#include <dirent.h>
#include <dlfcn.h>
#include <moonfork/nats.h>
#include <nats/nats.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

enum { SECONDS = 30, PAUSE_US = 200000, LEFT = 3, CONNECTIONS = 150 };

static sem_t is_closing;
static int is_slow, listener = -1;

/* libnats's last thread calls this of its own library, after it has counted itself out.
 */
__attribute__((visibility("default"))) void natsNUID_free(void);
void natsNUID_free(void) {
  void (*real)(void);
  *(void **)&real = dlsym(RTLD_NEXT, "natsNUID_free"); /* as POSIX has it */
  if (is_slow) {
    sem_post(&is_closing);
    usleep(PAUSE_US);
  }
  real();
}

/* The options of an attempt are the first that its process makes, and the last that its
 * thread has of libnats and OpenSSL; libnats makes copies of them. */
static _Atomic(natsOptions *) first;
static atomic_int is_over;
__attribute__((visibility("default"))) natsStatus natsOptions_Create(natsOptions **ret);
natsStatus natsOptions_Create(natsOptions **ret) {
  natsStatus (*real)(natsOptions **);
  *(void **)&real = dlsym(RTLD_NEXT, "natsOptions_Create");
  natsStatus s = real(ret);
  natsOptions *none = NULL;
  if (s == NATS_OK)
    atomic_compare_exchange_strong(&first, &none, *ret);
  return s;
}
__attribute__((visibility("default"))) void natsOptions_Destroy(natsOptions *options);
void natsOptions_Destroy(natsOptions *options) {
  void (*real)(natsOptions *);
  *(void **)&real = dlsym(RTLD_NEXT, "natsOptions_Destroy");
  int is_first = options && options == first;
  real(options);
  if (is_first)
    is_over = 1;
}

/* From here on OpenSSL has a function that exit calls. */
static atomic_int has_openssl;
__attribute__((visibility("default"))) natsStatus natsOptions_SetSecure(natsOptions *o,
                                                                        bool secure);
natsStatus natsOptions_SetSecure(natsOptions *o, bool secure) {
  natsStatus (*real)(natsOptions *, bool);
  *(void **)&real = dlsym(RTLD_NEXT, "natsOptions_SetSecure");
  natsStatus s = real(o, secure);
  has_openssl = 1;
  return s;
}

/* Another libnats may have other functions for this: then none is seen here. */
static atomic_int nmade, nfreed;
__attribute__((visibility("default"))) natsStatus
natsMsg_create(natsMsg **ret, const char *subject, int subject_length, const char *reply,
               int reply_length, const char *body, int body_length, int header_length);
natsStatus natsMsg_create(natsMsg **ret, const char *subject, int subject_length,
                          const char *reply, int reply_length, const char *body,
                          int body_length, int header_length) {
  natsStatus (*real)(natsMsg **, const char *, int, const char *, int, const char *, int,
                     int);
  *(void **)&real = dlsym(RTLD_NEXT, "natsMsg_create");
  natsStatus s = real(ret, subject, subject_length, reply, reply_length, body,
                      body_length, header_length);
  if (s == NATS_OK)
    nmade++;
  return s;
}
__attribute__((visibility("default"))) void natsMsg_free(void *message);
void natsMsg_free(void *message) {
  void (*real)(void *);
  *(void **)&real = dlsym(RTLD_NEXT, "natsMsg_free");
  if (message)
    nfreed++;
  real(message);
}

static int count_threads(void) {
  DIR *d = opendir("/proc/self/task");
  int n = -2; /* . and .. */
  while (d && readdir(d))
    n++;
  if (d)
    closedir(d);
  return n;
}

/* The last function that exit calls, after those of libnats and OpenSSL. */
static void look_at_threads(void) {
  for (int i = 0; i < SECONDS * 100 && count_threads() > 1; i++)
    usleep(10000);
  if (count_threads() > 1)
    _exit(LEFT);
}

static void look_at_attempts(void) {
  if (!is_over)
    _exit(LEFT);
}

static const char *silent_server(const char *scheme) {
  static char url[64];
  struct sockaddr_in a = {.sin_family = AF_INET};
  socklen_t n = sizeof a;
  listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, (struct sockaddr *)&a, sizeof a) < 0 || listen(listener, 5) < 0 ||
      getsockname(listener, (struct sockaddr *)&a, &n) < 0)
    _exit(99);
  snprintf(url, sizeof url, "%s://127.0.0.1:%d", scheme, ntohs(a.sin_port));
  return url;
}

/* A caller that is closed while its connection is being made. */
static void abort_a_caller(const char *scheme) {
  uv_loop_t loop;
  mf_far *far;
  mf_nats_options o = MF_NATS_OPTIONS_INIT;
  o.url = silent_server(scheme);
  o.subject = "a.b";
  if (uv_loop_init(&loop) != 0 || mf_far_new(&loop, &o, &far) != 0)
    _exit(98);
  mf_far_abort(far);
  mf_far_close(far, NULL, NULL);
  uv_run(&loop, UV_RUN_DEFAULT);
  if (uv_loop_close(&loop) != 0)
    _exit(97);
}

static void exits_while_libnats_is_closed(void) {
  struct timespec last;
  atexit(look_at_threads);
  sem_init(&is_closing, 0, 0);
  is_slow = 1;
  abort_a_caller("nats");
  close(listener); /* the attempt fails, and its thread closes libnats */
  clock_gettime(CLOCK_REALTIME, &last);
  last.tv_sec += SECONDS;
  if (sem_timedwait(&is_closing, &last) < 0)
    _exit(96);
  exit(0);
}

static void *close_later(void *data) {
  usleep(PAUSE_US);
  close(listener);
  return NULL;
}

/* exit calls this before the others, so that the attempt is under way until it waits. */
static void begin_to_close(void) {
  pthread_t thread;
  pthread_create(&thread, NULL, close_later, NULL);
  pthread_detach(thread);
}

static void exit_now(void) {
  while (!has_openssl)
    usleep(1000);
  usleep(PAUSE_US /
         10); /* the library's function follows OpenSSL's: then it is quicker */
  atexit(begin_to_close);
  exit(0);
}

static void exits_while_tls_is_begun(void) {
  atexit(look_at_attempts);
  abort_a_caller("tls");
  exit_now();
}

/* The same without a close: a program need not. */
static void exits_with_a_caller(void) {
  static uv_loop_t loop;
  mf_far *far;
  mf_nats_options o = MF_NATS_OPTIONS_INIT;
  atexit(look_at_attempts);
  o.url = silent_server("tls");
  o.subject = "a.b";
  if (uv_loop_init(&loop) != 0 || mf_far_new(&loop, &o, &far) != 0)
    _exit(98);
  uv_run(&loop, UV_RUN_NOWAIT);
  exit_now();
}

/* As much of a server as a connection needs. */
static void *serve(void *data) {
  static const char info[] =
      "INFO {\"server_id\":\"x\",\"version\":\"2.9.10\",\"proto\":1,"
      "\"headers\":true,\"max_payload\":1048576}\r\n";
  for (;;) {
    char text[4096];
    ssize_t n;
    int fd = accept(listener, NULL, NULL);
    if (fd < 0 || write(fd, info, sizeof info - 1) < 0)
      _exit(94);
    while ((n = read(fd, text, sizeof text - 1)) > 0) {
      text[n] = '\0';
      if (strstr(text, "PING\r\n") && send(fd, "PONG\r\n", 6, MSG_NOSIGNAL) < 0)
        break;
    }
    close(fd);
  }
  return NULL;
}

static void connect_and_abort(const char *url) {
  uv_loop_t loop;
  mf_far *far;
  mf_message m = {"\x90", 1, NULL, 0};
  mf_far_info info = {.size = sizeof info};
  mf_nats_options o = MF_NATS_OPTIONS_INIT;
  o.url = url;
  o.subject = "a.b";
  if (uv_loop_init(&loop) != 0 || mf_far_new(&loop, &o, &far) != 0)
    _exit(93);
  if (mf_far_call(far, &m, NULL, NULL, NULL, NULL) != 0) /* which keeps the loop */
    _exit(91);
  while (mf_far_stats(far, &info) == 0 && info.engine != MF_ENGINE_UP)
    uv_run(&loop, UV_RUN_ONCE);
  mf_far_abort(far);
  mf_far_close(far, NULL, NULL);
  uv_run(&loop, UV_RUN_DEFAULT);
  if (uv_loop_close(&loop) != 0)
    _exit(92);
}

static void leaves_no_message(void) {
  const char *url = silent_server("nats");
  pthread_t thread;
  pthread_create(&thread, NULL, serve, NULL);
  for (int i = 0; i < CONNECTIONS; i++)
    connect_and_abort(url);
  _exit(nfreed == 0 || nmade <= nfreed ? 0 : LEFT);
}

static int status_of(void (*f)(void)) {
  int status = -1;
  fflush(NULL);
  pid_t pid = fork();
  if (pid == 0) {
    alarm(SECONDS);
    f();
    _exit(95);
  }
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return status;
}

static void test_exit_waits_for_who_closes_libnats(void **state) {
  assert_int_equal(status_of(exits_while_libnats_is_closed), 0);
}

static void test_exit_waits_for_attempts_with_tls(void **state) {
  assert_int_equal(status_of(exits_while_tls_is_begun), 0);
}

static void test_exit_without_a_close(void **state) {
  assert_int_equal(status_of(exits_with_a_caller), 0);
}

static void test_an_end_frees_what_libnats_has(void **state) {
  assert_int_equal(status_of(leaves_no_message), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_exit_waits_for_who_closes_libnats),
      cmocka_unit_test(test_exit_waits_for_attempts_with_tls),
      cmocka_unit_test(test_exit_without_a_close),
      cmocka_unit_test(test_an_end_frees_what_libnats_has),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
