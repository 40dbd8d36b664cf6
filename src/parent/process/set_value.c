/* Values for a process: mf_set, and the same for the Lua binding, whose long strings go
 * from where they lie. Runs in the parent. */
#include "base/buf.h"
#include "os/fd.h"
#include "parent/private.h"
#include "parent/process/process.h"
#include "wire/proto.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* "a", "a.b": no part is empty. */
static int is_name(const char *name) {
  if (!name)
    return 0;
  for (;;) {
    size_t n = strcspn(name, ".");
    if (n == 0)
      return 0;
    if (!name[n])
      return 1;
    name += n + 1;
  }
}

int mf_set(mf_process *p, const char *name, const void *value, size_t length) {
  static const unsigned char list_of_one = 0x91; /* a message is a list of values */
  int r = process_check_unfinished(p);
  if (r)
    return r;
  if (!is_name(name) || !value || !length)
    return MF_EINVAL;
  if (length > MF_SET_BYTES_MAX)
    return MF_ELIMIT;
  struct buf body;
  buf_init(&body, PROTO_PAYLOAD_MAX);
  r = buf_put_str(&body, name, strlen(name));
  if (!r)
    r = buf_put(&body, &list_of_one, 1);
  if (!r)
    r = buf_put(&body, value, length);
  struct process_command c = {
      .type = CMD_SET, .body = buf_peek(&body), .length = buf_size(&body)};
  if (!r)
    r = process_event(p, &(struct event){EV_COMMAND, .command = &c});
  buf_deinit(&body);
  return r == -ENOMEM ? MF_ENOMEM : r;
}

/* ---- for the binding ---- */

static int take_fds(const mf_process *p, const mf_message *m, struct fdset *fds) {
  _Static_assert((int)MF_SET_FDS_MAX == (int)FRAME_FDS_MAX, "they go with one frame");
  if (m->nfds > FRAME_FDS_MAX)
    return MF_ELIMIT;
  for (size_t i = 0; i < m->nfds; i++) {
    int r = process_check_handle(p, m->fds[i]);
    if (r)
      return r;
    fdset_push(fds, m->fds[i]);
    m->fds[i] = -1;
  }
  return 0;
}

int mf_set_packed(mf_process *p, const mf_message *body, const struct lent *lent,
                  size_t n, void (*release)(void *), void *release_data) {
  struct iovec *pieces = malloc(lent_pieces(n) * sizeof *pieces);
  struct fdset fds;
  fdset_init(&fds);
  int r = pieces ? process_check_unfinished(p) : MF_ENOMEM;
  if (!r)
    r = take_fds(p, body, &fds);
  if (r) {
    fdset_close(&fds);
    free(pieces);
    release(release_data);
    return r;
  }
  struct process_command c = {.type = CMD_SET,
                              .pieces = pieces,
                              .npieces =
                                  lent_cut(body->data, body->length, lent, n, pieces),
                              .length = body->length + lent_bytes(lent, n),
                              .fds = &fds,
                              .release = release,
                              .release_data = release_data};
  r = process_event(p, &(struct event){EV_COMMAND, .command = &c});
  free(pieces);
  return r == -ENOMEM ? MF_ENOMEM : r;
}
