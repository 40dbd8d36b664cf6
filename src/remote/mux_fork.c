/* Forks whose socket is made when somebody needs it: most clones that return at once say
 * nothing, and nobody ever reads or writes it. In the near end they have a token; in the agent they
 * wait for their clone. */
#include "remote/mux_channel.h"

#include "os/fd.h"
#include "wire/link_early.h"
#include <errno.h>
#include <string.h>

static struct mux_channel *find(struct mux *m, uint32_t token) {
  list_each(it, &m->unmade) {
    struct mux_channel *c = list_entry(it, struct mux_channel, unmade);
    if (c->token == token)
      return c;
  }
  return NULL;
}

int mux_fork(struct mux *m, const struct link_fork *fork) {
  struct mux_channel *root = channel_find(m, LINK_CHANNEL_ROOT);
  if (find(m, fork->token) || (root && root->sends && root->credit < fork->n))
    return -EPROTO;
  if (!root || !root->sends) { /* there is no template any more */
    m->ops->on_unmade_end(m, fork->token);
    return 0;
  }
  struct mux_channel *c = channel_new(m, channel_next_id(m));
  if (!c)
    return -ENOMEM;
  c->token = fork->token;
  list_push(&m->unmade, &c->unmade);
  int r = link_put_clone(&m->out, c->id, fork, NULL, 0);
  if (r == 0)
    channel_count_sent(root, fork->n);
  return r;
}

void mux_forget_fork(struct mux *m, uint32_t token) {
  struct mux_channel *c = find(m, token);
  if (!c)
    return;
  channel_give_up(c);
  m->ops->on_unmade_end(m, token);
}

/* ---- agent ---- */

/* The program's FORKs, which the near end does not number, are a row of their own. */
static uint32_t *last_id(struct mux *m, uint32_t id) {
  return &m->last_ids[m->is_agent && link_channel_is_early(id)];
}

/* Numbers go round: the next one is less than half of them ahead. */
int channel_may_come(struct mux *m, uint32_t id) {
  int is_theirs = (id & 1) != (unsigned)!m->is_agent;
  int is_next = (int32_t)(id - *last_id(m, id)) > 0;
  return is_theirs && is_next && id > LINK_CHANNEL_OUTPUT && !mux_has(m, id) &&
                 m->nchannels < LINK_CHANNELS_MAX
             ? 0
             : -EPROTO;
}

void channel_has_come(struct mux *m, uint32_t id) {
  *last_id(m, id) = id;
}

static int pass(struct mux *m, const unsigned char *bytes, size_t n, int fd) {
  struct mux_channel *root = channel_find(m, LINK_CHANNEL_ROOT);
  struct fdset fds;
  fdset_init(&fds);
  if (fd >= 0)
    fdset_push(&fds, fd);
  int r = root && root->receives && n ? channel_deliver(root, bytes, n, &fds) : 0;
  channel_close_passed(m, fds.fd, fds.n);
  return r;
}

int channel_pass_forks(struct mux *m) {
  size_t n = m->nheld;
  m->nheld = 0;
  return pass(m, m->held, n, -1);
}

int channel_before_command(struct mux *m) {
  if (m->ops->on_command)
    m->ops->on_command(m);
  return channel_pass_forks(m);
}

/* With its socket. */
static int pass_fork(struct mux *m, uint32_t id, const unsigned char *command, size_t n) {
  struct link_descriptor d = {.kind = LINK_STREAM, .id = id};
  int r = channel_pass_forks(m);
  int fd = r < 0 ? r : channel_materialise(m, &d, LINK_CHANNEL_ROOT);
  return fd < 0 ? fd : pass(m, command, n, fd);
}

/* Together with those that come with it. */
static int hold_fork(struct mux *m, uint32_t id, size_t n) {
  struct mux_channel *c = channel_new(m, id);
  if (!c)
    return -ENOMEM;
  channel_has_come(m, id);
  c->is_bare = 1;
  list_push(&m->unmade, &c->unmade);
  m->nheld += n;
  return 0;
}

int channel_take_fork(struct mux *m, const struct link_frame *f) {
  struct mux_channel *root = channel_find(m, LINK_CHANNEL_ROOT);
  struct link_fork fork;
  if (link_read_fork(f, &fork) < 0 || channel_may_come(m, f->channel) < 0 ||
      (root && (root->ended || fork.n > m->window - root->queued - m->nheld)))
    return -EPROTO;
  if (!root || !root->receives) {
    channel_has_come(m, f->channel);
    channel_refuse(m, f->channel);
    return 0;
  }
  int r = m->nheld + fork.n > sizeof m->held ? channel_pass_forks(m) : 0;
  if (r < 0)
    return r;
  unsigned char *command = m->held + m->nheld;
  m->passed_ms = mux_now_ms(m);
  memcpy(command, fork.command, fork.n);
  if (m->ops->take_fork(m, f->channel, &fork, command))
    return hold_fork(m, f->channel, fork.n);
  return pass_fork(m, f->channel, command, fork.n);
}

static struct mux_channel *find_bare(const struct mux *m, uint32_t id) {
  struct mux_channel *c = channel_find(m, id);
  return c && c->is_bare ? c : NULL;
}

void mux_adopt(struct mux *m, uint32_t id, int fd) {
  struct mux_channel *c = find_bare(m, id);
  if (!c) {
    fd_close(&fd);
    return;
  }
  c->is_bare = 0;
  list_remove(&c->unmade);
  c->local = (struct local){.fd = fd, .is_socket = 1}; /* others may have it, too */
  if (!c->receives)
    local_end_writing(&c->local);
  if (!c->sends)
    local_end_reading(&c->local);
  channel_begin_local(c);
}

void mux_end_unmade(struct mux *m, uint32_t id) {
  struct mux_channel *c = find_bare(m, id);
  if (!c)
    return;
  channel_give_up(c);
}
