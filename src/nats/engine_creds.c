/* A file of credentials: a token and a seed, each after a line of dashes and before
 * another, as nsc writes them. If libnats read it when the server asks, what is wrong with
 * it would look like a failure of the connection.
 *
 * Before 3.8 libnats leaves out of CONNECT a signature whose first byte is zero, one in
 * 256, and the server refuses it. The server gives each connection another text to sign,
 * so that the next one has another signature. Runs in the parent, in the thread of an
 * attempt. */
#include "nats/engine_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CREDS_MAX = 65536, CONNECTS_MAX = 8 };

/* It has a secret: the memory is cleared before it is given back. */
static void wipe(char *text, size_t n) {
  volatile char *p = text;
  while (n-- > 0)
    *p++ = '\0';
  free(text);
}

/* The lines between lines of dashes, cut out of the text: at most so many. */
static int find_blocks(char *text, char **ret_blocks, int most) {
  int is_inside = 0, n = 0;
  char *rest = text;
  for (char *line; n < most && (line = strsep(&rest, "\n"));) {
    line[strcspn(line, "\r")] = '\0';
    if (strncmp(line, "---", 3) == 0)
      is_inside = !is_inside;
    else if (is_inside && *line)
      ret_blocks[n++] = line;
  }
  return n;
}

static const char *take_blocks(struct engine_creds *c) {
  unsigned char *signature = NULL;
  char *blocks[2];
  int length = 0;
  if (find_blocks(c->text, blocks, 2) < 2)
    return "no token and seed, as nsc writes them";
  c->token = blocks[0];
  c->seed = blocks[1];
  natsStatus s = nats_Sign(c->seed, "nonce", &signature, &length);
  free(signature);
  return s == NATS_OK ? NULL : "a seed that is not valid";
}

void engine_creds_free(struct engine_creds *c) {
  if (c->text)
    wipe(c->text, CREDS_MAX + 1);
  c->text = NULL;
}

int engine_creds_read(const char *path, struct engine_creds *c, char *ret_fault,
                      size_t size) {
  c->text = malloc(CREDS_MAX + 1);
  FILE *file = c->text ? fopen(path, "re") : NULL;
  if (!file) {
    snprintf(ret_fault, size, "the credentials can't be read (%s): %s",
             c->text ? strerror(errno) : "not enough memory", path);
    return -1;
  }
  size_t n = fread(c->text, 1, CREDS_MAX, file);
  fclose(file);
  c->text[n] = '\0';
  const char *fault = take_blocks(c);
  if (fault)
    snprintf(ret_fault, size, "the credentials can't be used (%s): %s", fault, path);
  return fault ? -1 : 0;
}

/* ---- what libnats asks ---- */

static natsStatus give_token(char **token, char **text, void *closure) {
  const struct engine_creds *c = closure;
  (void)text;
  *token = strdup(c->token);
  return *token ? NATS_OK : NATS_NO_MEMORY;
}

static natsStatus sign(char **text, unsigned char **signature, int *length,
                       const char *nonce, void *closure) {
  struct engine_creds *c = closure;
  (void)text;
  if (!nonce || !*nonce) /* the server lets everybody in */
    return NATS_OK;
  natsStatus s = nats_Sign(c->seed, nonce, signature, length);
  if (s != NATS_OK || **signature)
    return s;
  free(*signature);
  *signature = NULL;
  c->needs_other = 1;
  return NATS_ERR;
}

natsStatus engine_creds_set(struct engine_creds *c, natsOptions *opts) {
  return natsOptions_SetUserCredentialsCallbacks(opts, give_token, c, sign, c);
}

natsStatus engine_creds_connect(struct engine_creds *c, natsConnection **nc,
                                natsOptions *opts) {
  natsStatus s = NATS_ERR;
  int connects = 0;
  do {
    c->needs_other = 0;
    s = natsConnection_Connect(nc, opts);
  } while (s != NATS_OK && c->needs_other && ++connects < CONNECTS_MAX);
  return s;
}
