/* Addresses as text. Knows no Lua; every process.
 *
 *   "host:port", "[v6]:port"                TCP
 *   "/path" (any text with a slash)         a UNIX stream socket
 *   "@name"                                 the same under an abstract name (Linux),
 * which ends with its last descriptor "unixgram:/path", "unixgram:@name"      a UNIX
 * datagram socket */
#ifndef SOCKET_ADDRESS_H
#define SOCKET_ADDRESS_H

#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { ADDRESS_TEXT_MAX = 320 }; /* what address_format writes at most, with its NUL */

struct address {
  char host[256];   /* empty: every interface (to listen), this machine (to connect) */
  char service[32]; /* port number or service name */
  char path[109];   /* not empty: a UNIX socket; with '@' first an abstract name */
  int is_datagram;  /* only with a path */
};
/* 0, -EINVAL (no such form) or -ENAMETOOLONG. */
int address_parse(const char *text, size_t length, struct address *ret);
/* A socket as getaddrinfo's answers have it, for an address with a path. 0 or -errno. */
int address_to_unix(const struct address *a, struct sockaddr_un *ret,
                    socklen_t *ret_size);

enum address_end { ADDRESS_OWN, ADDRESS_PEER };
/* The address of a socket's own end or of the one that it is connected to, in the same
 * form; an end without a name is "". Zero bytes in an abstract name are shown as '@'. 0
 * or -errno. */
int address_format(int fd, enum address_end end, char *text, size_t size);

#endif
