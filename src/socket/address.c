/* Addresses as text (address.h). Memory only, but for asking a socket for its names. */
#include "socket/address.h"

#include "socket/sys.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DATAGRAM "unixgram:"

static int copy(char *to, size_t size, const char *from, size_t n) {
  if (n >= size)
    return -ENAMETOOLONG;
  memcpy(to, from, n);
  to[n] = '\0';
  return 0;
}

/* getaddrinfo would take the number modulo 65,536, behind spaces and signs, too. */
static int is_no_port(const char *service) {
  if (!isalnum((unsigned char)*service))
    return 1;
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
  return is_no_port(ret->service) ? -EINVAL : 0;
}

/* The kernel wants a zero byte behind a path, and none behind an abstract name; there the
 * '@' becomes the zero byte that such names begin with. */
static int parse_path(const char *text, size_t length, struct address *ret) {
  size_t room = sizeof((struct sockaddr_un *)NULL)->sun_path + (text[0] == '@');
  if (text[0] == '@' && length == 1)
    return -EINVAL;
  return copy(ret->path, room < sizeof ret->path ? room : sizeof ret->path, text, length);
}

static int is_path(const char *text, size_t length) {
  return length > 0 && (text[0] == '@' || memchr(text, '/', length));
}

int address_parse(const char *text, size_t length, struct address *ret) {
  size_t nprefix = strlen(DATAGRAM);
  memset(ret, 0, sizeof *ret);
  if (length == 0 || memchr(text, '\0', length))
    return -EINVAL;
  ret->is_datagram = length >= nprefix && memcmp(text, DATAGRAM, nprefix) == 0;
  if (ret->is_datagram) {
    text += nprefix;
    length -= nprefix;
    if (!is_path(text, length))
      return -EINVAL;
  }
  if (is_path(text, length))
    return parse_path(text, length, ret);
  return parse_host_port(text, length, ret);
}

int address_to_unix(const struct address *a, struct sockaddr_un *ret,
                    socklen_t *ret_size) {
  size_t n = strlen(a->path), head = offsetof(struct sockaddr_un, sun_path);
  memset(ret, 0, sizeof *ret);
  ret->sun_family = AF_UNIX;
  memcpy(ret->sun_path, a->path, n);
  *ret_size = (socklen_t)(head + n + 1);
  if (a->path[0] != '@')
    return 0;
#ifndef __linux__
  return -EAFNOSUPPORT;
#endif
  ret->sun_path[0] = '\0';
  *ret_size = (socklen_t)(head + n);
  return 0;
}

union any_address {
  struct sockaddr any;
  struct sockaddr_in v4;
  struct sockaddr_in6 v6;
  struct sockaddr_un un;
  struct sockaddr_storage room;
};

/* size: what the kernel says of the whole address. */
static void format_unix(int fd, const struct sockaddr_un *un, socklen_t size, char *text,
                        size_t room) {
  size_t head = offsetof(struct sockaddr_un, sun_path);
  size_t n = size > head ? size - head : 0;
  char name[sizeof un->sun_path + 1];
  memcpy(name, un->sun_path, n);
  int is_abstract = n > 1 && name[0] == '\0';
  for (size_t i = 0; is_abstract && i < n; i++)
    if (name[i] == '\0')
      name[i] = '@';
  name[n] = '\0';
  snprintf(text, room, "%s%s", name[0] && sys_is_datagram(fd) ? DATAGRAM : "", name);
}

int address_format(int fd, enum address_end end, char *text, size_t size) {
  union any_address a;
  char host[INET6_ADDRSTRLEN + IF_NAMESIZE];
  memset(&a, 0, sizeof a);
  socklen_t n = sizeof a;
  if ((end == ADDRESS_OWN ? getsockname(fd, &a.any, &n) : getpeername(fd, &a.any, &n)) !=
      0)
    return -errno;
  switch (a.any.sa_family) {
  case AF_INET:
    inet_ntop(AF_INET, &a.v4.sin_addr, host, sizeof host);
    snprintf(text, size, "%s:%u", host, (unsigned)ntohs(a.v4.sin_port));
    return 0;
  case AF_INET6:
    if (getnameinfo(&a.any, n, host, sizeof host, NULL, 0, NI_NUMERICHOST) != 0)
      return -EINVAL; /* it tells the interface of a link-local address, too */
    snprintf(text, size, "[%s]:%u", host, (unsigned)ntohs(a.v6.sin6_port));
    return 0;
  case AF_UNIX:
    format_unix(fd, &a.un, n < sizeof a.un ? n : sizeof a.un, text, size);
    return 0;
  default:
    return -EAFNOSUPPORT;
  }
}
