-- What ffi_luajit.lua uses of moonfork.h, word by word (test/check/ffi.lua compares), and of
-- libuv's and the system's interfaces what does not change.

require("ffi").cdef [[
typedef struct mf_process mf_process;
typedef struct mf_exit {
  int known, code, signal;
  const char *error;
  int core;
  int has_rusage;
  uint64_t utime_us, stime_us, maxrss_bytes;
} mf_exit;
typedef struct mf_error {
  int code;
  const char *message, *traceback;
  int started;
  const mf_exit *exit;
  const void *value;
  size_t value_length;
  int os_error;
} mf_error;
typedef struct mf_stdio {
  int kind, fd;
} mf_stdio;
typedef struct mf_options {
  size_t size;
  struct uv_loop_s *loop;
  const char *program;
  const char *const *env;
  const char *cwd;
  const char *lua_path, *lua_cpath;
  mf_stdio stdio[3];
  int gc;
  int leash;
  int handles;
  int new_session;
  unsigned timeout_ms;
  const char *name;
  unsigned spares_min, spares_max;
  size_t heap_reserve;
  int dumpable;
  int tree;
  const char *const *command;
  unsigned beat_ms;
  size_t window;
  int isolation;
  const char *image;
  int image_verify;
  int lazy;
} mf_options;
void mf_options_init(mf_options *options);
typedef void (*mf_run_cb)(mf_process *, const mf_error *error, int socket, void *data);
typedef void (*mf_exit_cb)(mf_process *, const mf_exit *status, void *data);
typedef void (*mf_close_cb)(mf_process *, void *data);
typedef void (*mf_error_cb)(mf_process *, const mf_error *error, void *data);
int mf_new(const mf_options *, mf_process **ret);
int mf_new_exec(const mf_options *, mf_process **ret);
int mf_fork_options(mf_process *, const mf_options *, mf_process **ret);
int mf_reset(struct uv_loop_s *loop);
int mf_require(mf_process *, const char *module);
int mf_eval(mf_process *, const char *code, size_t length, int argc,
            const char *const *argv, const size_t *lengths);
int mf_send_fd(mf_process *, int fd);
int mf_send_arg(mf_process *, const void *data, size_t length);
int mf_run(mf_process *, const char *function, mf_run_cb, void *data);
int mf_finish(mf_process *);
int mf_on_error(mf_process *, mf_error_cb, void *data);
int mf_on_exit(mf_process *, mf_exit_cb, void *data);
int mf_kill(mf_process *, int signum);
int mf_pid(const mf_process *);
void mf_close(mf_process *, mf_close_cb, void *data);
typedef struct mf_rpc mf_rpc;
typedef struct mf_message {
  const void *data;
  size_t length;
  int *fds;
  size_t nfds;
} mf_message;
typedef void (*mf_reply_cb)(const mf_error *error, const mf_message *reply, void *data);
typedef void (*mf_event_cb)(const mf_message *event, void *data);
typedef void (*mf_trouble_cb)(const mf_error *error, void *data);
typedef void (*mf_notice_cb)(void *data);
typedef struct mf_rpc_options {
  size_t size;
  const char *init;
  const char *serialiser;
  int async;
  int handles;
  int strict;
  unsigned timeout_ms;
  uint64_t message_max;
  size_t pending_max;
  size_t queue_bytes_max;
  mf_event_cb on_event;
  mf_trouble_cb on_error;
  mf_notice_cb on_close;
  mf_notice_cb on_drain;
  void *data;
  unsigned grace_ms;
  int strict_classes;
} mf_rpc_options;
void mf_rpc_options_init(mf_rpc_options *options);
typedef struct mf_call_options {
  size_t size;
  unsigned timeout_ms;
  int idempotent;
  int chunk;
} mf_call_options;
int mf_rpc_new(mf_process *p, const char *function, const mf_rpc_options *,
               mf_rpc **ret);
int mf_rpc_call(mf_rpc *, const mf_message *request, const mf_call_options *,
                mf_reply_cb, void *data, uint64_t *ret_id);
int mf_rpc_cancel(mf_rpc *, uint64_t id);
void mf_rpc_abort(mf_rpc *);
typedef void (*mf_rpc_close_cb)(mf_rpc *, void *data);
void mf_rpc_close(mf_rpc *, mf_rpc_close_cb, void *data);
typedef struct mf_pool mf_pool;
typedef void (*mf_worker_cb)(int event, int pid, const char *reason, void *data);
typedef struct mf_pool_options {
  size_t size;
  const mf_rpc_options *rpc;
  unsigned max;
  unsigned idle;
  unsigned load;
  unsigned start_ms;
  unsigned stop_ms;
  unsigned queue_max;
  unsigned max_calls;
  unsigned call_timeout_ms;
  uint64_t max_memory;
  unsigned restart_burst, restart_period_ms;
  unsigned grace_ms;
  unsigned backoff_min_ms, backoff_max_ms;
  mf_worker_cb on_worker;
  void *worker_data;
  int tree;
  unsigned restart_starts;
  int isolation;
  int lazy;
} mf_pool_options;
void mf_pool_options_init(mf_pool_options *options);
int mf_pool_new(mf_process *p, const char *function, const mf_pool_options *,
                mf_pool **ret);
int mf_pool_call(mf_pool *, const mf_message *request, const mf_call_options *,
                 mf_reply_cb, void *data, uint64_t *ret_id);
int mf_pool_cancel(mf_pool *, uint64_t id);
int mf_pool_resize(mf_pool *, unsigned max);
typedef void (*mf_pool_cb)(mf_pool *, const mf_error *error, void *data);
int mf_pool_reload(mf_pool *, mf_process *p, mf_pool_cb, void *data);
int mf_pool_add(mf_pool *, mf_process *p, mf_pool_cb, void *data);
int mf_pool_promote(mf_pool *, mf_pool_cb, void *data);
int mf_pool_drain(mf_pool *, unsigned timeout_ms, mf_pool_cb, void *data);
typedef struct mf_drain_report {
  size_t size;
  uint64_t answered;
  uint64_t dropped;
  uint64_t interrupted;
  unsigned killed;
} mf_drain_report;
int mf_pool_drain_report(const mf_pool *, mf_drain_report *);
enum { MF_POOL_DEATHS = 8 };
typedef struct mf_pool_death {
  int pid;
  mf_exit exit;
  uint64_t age_ms;
  char reason[160];
} mf_pool_death;
typedef struct mf_pool_times { uint64_t p50_us, p90_us, p99_us, max_us; } mf_pool_times;
typedef struct mf_pool_info {
  size_t size;
  int state;
  unsigned max, workers;
  unsigned idle, starting, leaving;
  size_t queued, running;
  uint64_t calls, done, failed;
  uint64_t refused, timeouts, cancelled, retried, late;
  uint64_t started, deaths, recycled, retired, killed;
  uint64_t template_starts, reloads, events;
  uint64_t memory;
  uint64_t p50_us, p99_us;
  mf_pool_death last[MF_POOL_DEATHS];
  unsigned nlast;
  mf_pool_times queue_time;
  mf_pool_times run_time;
  unsigned templates;
  uint64_t promotions;
  int chunks;
} mf_pool_info;
int mf_pool_stats(const mf_pool *, mf_pool_info *);
size_t mf_pool_pids(const mf_pool *, int *pids, size_t n);
typedef struct mf_pool_worker {
  int pid;
  unsigned running;
  uint64_t calls;
  uint64_t run_us;
  mf_pool_times run_time;
  uint64_t memory;
  uint64_t shared;
} mf_pool_worker;
size_t mf_pool_workers(const mf_pool *, mf_pool_worker *workers, size_t size, size_t n);
void mf_pool_abort(mf_pool *);
typedef void (*mf_pool_close_cb)(mf_pool *, void *data);
void mf_pool_close(mf_pool *, mf_pool_close_cb, void *data);
const char *mf_strerror(int code);
const char *mf_errname(int code);
const char *mf_version_string(void);
/* ---- libuv ---- */
typedef void (*uv_handle_cb)(void *handle);
size_t uv_loop_size(void);
size_t uv_handle_size(int type);
int uv_loop_init(struct uv_loop_s *loop);
int uv_loop_close(struct uv_loop_s *loop);
int uv_loop_alive(const struct uv_loop_s *loop);
int uv_run(struct uv_loop_s *loop, int mode);
void uv_update_time(struct uv_loop_s *loop);
int uv_backend_fd(const struct uv_loop_s *loop);
int uv_backend_timeout(const struct uv_loop_s *loop);
uint64_t uv_hrtime(void);
int uv_async_init(struct uv_loop_s *loop, void *handle, uv_handle_cb on_wake);
void uv_close(void *handle, uv_handle_cb on_close);
void uv_ref(void *handle);
void uv_unref(void *handle);
int uv_translate_sys_error(int sys_errno);
/* ---- the system ---- */
struct mf_pollfd { int fd; short events, revents; };
int poll(struct mf_pollfd *fds, unsigned long nfds, int timeout);
int pipe(int fds[2]);
int close(int fd);
intptr_t read(int fd, void *buffer, size_t count);
intptr_t write(int fd, const void *buffer, size_t count);
intptr_t send(int fd, const void *buffer, size_t count, int flags);
void *calloc(size_t n, size_t size);
void free(void *block);
]]
