/* Addresses as text (address.h). Memory only, but for one getsockname(2). */
#include "socket/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static int copy(char *to, size_t size, const char *from, size_t n) {
  if (n >= size)
    return -ENAMETOOLONG;
  memcpy(to, from, n);
  to[n] = '\0';
  return 0;
}

/* getaddrinfo would take the number modulo 65,536. */
static int is_beyond_ports(const char *service) {
  if (service[strspn(service, "0123456789")] != '\0')
    return 0;
  service += strspn(service, "0");
  return strlen(service) > 5 || atoi(service) > UINT16_MAX;
}

static int parse_host_port(const char *text, size_t length, struct address *ret) {
  const char *colon = memrchr(text, ':', length);
  if (!colon || colon == text + length - 1)
    return -EINVAL;
  const char *port = colon + 1;
  size_t nport = (size_t)(text + length - port), nhost = (size_t)(colon - text);
  if (nhost >= 2 && text[0] == '[' && colon[-1] == ']') {
    text++;
    nhost -= 2;
  } else if (memchr(text, ':', nhost)) {
    return -EINVAL; /* a bare v6 address: where would its port begin? */
  }
  if (nhost == 1 && text[0] == '*')
    nhost = 0;
  int r = copy(ret->host, sizeof ret->host, text, nhost);
  if (r == 0)
    r = copy(ret->service, sizeof ret->service, port, nport);
  if (r < 0)
    return r;
  return is_beyond_ports(ret->service) ? -EINVAL : 0;
}

int address_parse(const char *text, size_t length, struct address *ret) {
  memset(ret, 0, sizeof *ret);
  if (length == 0 || memchr(text, '\0', length))
    return -EINVAL;
  if (memchr(text, '/', length))
    return copy(ret->path, sizeof ret->path, text, length);
  return parse_host_port(text, length, ret);
}

union any_address {
  struct sockaddr any;
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
  struct sockaddr_un un;
  struct sockaddr_storage room;
};

int address_format(int fd, char *text, size_t size) {
  union any_address a;
  char host[INET6_ADDRSTRLEN];
  memset(&a, 0, sizeof a);
  socklen_t n = sizeof a;
  if (getsockname(fd, &a.any, &n) != 0)
    return -errno;
  switch (a.any.sa_family) {
  case AF_INET:
    inet_ntop(AF_INET, &a.v4.sin_addr, host, sizeof host);
    snprintf(text, size, "%s:%u", host, (unsigned)ntohs(a.v4.sin_port));
    return 0;
  case AF_INET6:
    inet_ntop(AF_INET6, &a.v6.sin6_addr, host, sizeof host);
    snprintf(text, size, "[%s]:%u", host, (unsigned)ntohs(a.v6.sin6_port));
    return 0;
  case AF_UNIX:
    snprintf(text, size, "%.*s", (int)sizeof a.un.sun_path, a.un.sun_path);
    return 0;
  default:
    return -EAFNOSUPPORT;
  }
}
