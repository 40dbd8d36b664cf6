/* How an asynchronous server has luv watch its socket: through a descriptor that is
 * readable when the socket is ready. luv prints a line by itself when a watched
 * descriptor has an error, and a socket has one when the parent is gone with answers
 * unread. rpc_watch_epoll.c, or rpc_watch_plain.c where there is no epoll. Runs in
 * clones. */
#ifndef TEMPLATE_RPC_WATCH_H
#define TEMPLATE_RPC_WATCH_H

/* A descriptor to be watched for reading; negative: watch the socket itself. */
int rpc_watch_open(int socket);
/* The watch is readable also when that descriptor is; nothing where it can't be. */
void rpc_watch_also(int watch, int fd);
/* wanted: of 'r' (readable), 'w' (writable) and 'd' (hung up). */
void rpc_watch_set(int watch, int socket, const char *wanted);

#endif
