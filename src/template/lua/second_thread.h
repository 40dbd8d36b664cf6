/* A second thread, a C library's, refuses an image as it refuses a fork: whoever loads the
 * image does not have it. Runs in templates and clones. */
#ifndef TEMPLATE_LUA_SECOND_THREAD_H
#define TEMPLATE_LUA_SECOND_THREAD_H

#include "template/image/image.h"
#include "template/server/server.h"

/* 0, or -EINVAL and why. While clones in threads run nobody can tell whose a thread is. */
int second_thread_refuses(const struct server *s, char why[IMAGE_TEXT_MAX]);

#endif
