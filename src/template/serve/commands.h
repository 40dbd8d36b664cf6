/* The handlers of commands, one each: 0, or enum served. A command that fails says so by
 * server_fail and returns 0; cmd_run is in runner.h. Runs in
 * templates and clones before run. */
#ifndef TEMPLATE_SERVE_COMMANDS_H
#define TEMPLATE_SERVE_COMMANDS_H

#include "template/server/server.h"

int cmd_setup(struct server *s, struct command *c);
int cmd_require(struct server *s, struct command *c);
int cmd_eval(struct server *s, struct command *c);
int cmd_arg(struct server *s, struct command *c);
int cmd_fd(struct server *s, struct command *c);
int cmd_fork(struct server *s, struct command *c); /* cmd_fork.c */
int cmd_setenv(struct server *s, struct command *c);
int cmd_chdir(struct server *s, struct command *c);
int cmd_limit(struct server *s, struct command *c); /* cmd_limit.c */
int cmd_seal(struct server *s, struct command *c);
int cmd_listen(struct server *s, struct command *c);
int cmd_take_args(struct server *s, struct command *c);
int cmd_memory(struct server *s, struct command *c); /* cmd_memory.c */
int cmd_close(struct server *s, struct command *c);
int cmd_who(struct server *s, struct command *c);
int cmd_save(struct server *s, struct command *c); /* cmd_save.c */
int cmd_set(struct server *s, struct command *c);  /* cmd_set.c */

#endif
