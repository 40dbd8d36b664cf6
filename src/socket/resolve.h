/* From an address to socket addresses. Numeric ones are there at once. A host name is
 * asked of the resolver, which blocks: it runs in a thread that lives for this one
 * question and is joined before the answer is used, so that none is left behind (a
 * template that has a second thread may not fork). Who gives up earlier leaves the thread
 * to end by itself.
 *
 * No Lua; every process. The struct is the caller's memory: zeroed, start, poll until
 * there, look at list, deinit at any time. */
#ifndef SOCKET_RESOLVE_H
#define SOCKET_RESOLVE_H

#include "socket/address.h"
#include <netdb.h>
#include <sys/un.h>

struct resolve {
  int wait_fd;                 /* readable when resolve_poll has news; -1: none needed */
  const struct addrinfo *list; /* the answer */
  struct resolve_job *job;     /* a thread is at it */
  struct addrinfo *answer;
  struct addrinfo unix_info;
  struct sockaddr_un unix_name;
};
void resolve_init(struct resolve *k);
/* passive: for bind. may_block: the caller may sleep, so no thread is needed. 0, or a
 * negated errno with *ret_text the reason. */
int resolve_start(struct resolve *k, const struct address *a, int passive, int may_block,
                  const char **ret_text);
/* 0: list is there; MF_AGAIN: wait for wait_fd; or as resolve_start. */
int resolve_poll(struct resolve *k, const char **ret_text);
/* A descriptor on which nothing ever comes, to wait a while; or a negated errno. */
int resolve_quiet_fd(struct resolve *k);
void resolve_deinit(struct resolve *k);

#endif
