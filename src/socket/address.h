/* Addresses as text: "host:port", "[v6]:port" or "/path". Knows no Lua; every process. */
#ifndef SOCKET_ADDRESS_H
#define SOCKET_ADDRESS_H

#include <stddef.h>

enum { ADDRESS_TEXT_MAX = 320 }; /* what address_format writes at most, with its NUL */

struct address {
  char host[256];   /* empty: every interface (to listen), this machine (to connect) */
  char service[32]; /* port number or service name */
  char path[108];   /* not empty: a UNIX socket */
};
/* 0, -EINVAL (no such form) or -ENAMETOOLONG. */
int address_parse(const char *text, size_t length, struct address *ret);
/* The address that a socket is bound to, in the same form. 0 or -errno. */
int address_format(int fd, char *text, size_t size);

#endif
