/* For units of libmoonfork-nats: a server that can't be reached. */
#ifndef UNIT_NATS_KIT_H
#define UNIT_NATS_KIT_H

#include "unit.h"

#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static char url[64]; /* of that server, after find_port */

/* A group setup: a port that nobody listens at. */
static int find_port(void **state) {
  struct sockaddr_in a = {.sin_family = AF_INET};
  socklen_t n = sizeof a;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
  close(fd);
  snprintf(url, sizeof url, "nats://127.0.0.1:%d", ntohs(a.sin_port));
  return 0;
}

#endif
