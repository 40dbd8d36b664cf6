/* Forks whose socket is made when somebody needs it: most clones that return at once say
 * nothing, and nobody ever reads or writes it. Runs in the near end. */
#include "remote/mux_channel.h"

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

static int put_command(struct mux *m, uint32_t id, const unsigned char *command,
                       size_t n) {
  struct link_descriptor d = {.kind = LINK_STREAM, .id = id};
  size_t length = LINK_DESCRIPTOR_SIZE + n;
  unsigned char *at = buf_reserve(&m->out, LINK_HEADER_SIZE + length);
  if (!at)
    return -ENOMEM;
  link_put_header(at, LINK_DATA, 1, LINK_CHANNEL_ROOT, (uint32_t)length);
  link_put_descriptor(at + LINK_HEADER_SIZE, &d);
  memcpy(at + LINK_HEADER_SIZE + LINK_DESCRIPTOR_SIZE, command, n);
  buf_commit(&m->out, LINK_HEADER_SIZE + length);
  return 0;
}

int mux_fork(struct mux *m, uint32_t token, const unsigned char *command, size_t n) {
  struct mux_channel *root = channel_find(m, LINK_CHANNEL_ROOT);
  if (find(m, token) || (root && root->sends && root->credit < n))
    return -EPROTO;
  if (!root || !root->sends) { /* there is no template any more */
    m->ops->on_unmade_end(m, token);
    return 0;
  }
  struct mux_channel *c = channel_new(m, m->next_id);
  if (!c)
    return -ENOMEM;
  m->next_id += 2;
  c->token = token;
  list_push(&m->unmade, &c->unmade);
  int r = put_command(m, c->id, command, n);
  if (r == 0)
    channel_count_sent(root, n);
  return r;
}

void mux_forget_fork(struct mux *m, uint32_t token) {
  struct mux_channel *c = find(m, token);
  if (!c)
    return;
  if (c->sends && link_put(&m->out, LINK_END, c->id, NULL, 0) < 0)
    mux_break(m, "not enough memory");
  if (c->receives && link_put(&m->out, LINK_RESET, c->id, NULL, 0) < 0)
    mux_break(m, "not enough memory");
  channel_drop(c);
  m->ops->on_unmade_end(m, token);
}
