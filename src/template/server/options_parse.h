/* The bodies of commands as plain values: options of SETUP and FORK, the arguments of
 * EVAL, the numbers of LIMIT. Pure, and fuzzed; nothing is copied, every text borrows
 * from the body. Runs in templates and clones. */
#ifndef TEMPLATE_SERVER_OPTIONS_PARSE_H
#define TEMPLATE_SERVER_OPTIONS_PARSE_H

#include "base/buf.h"
#include "wire/build.h"
#include "wire/frame.h"
#include <stddef.h>
#include <stdint.h>

struct text { /* borrowed bytes; p NULL: none */
  const char *p;
  size_t n;
};

struct options {
  struct text name, cwd, path, cpath, image;
  struct text raw;      /* all of them, for the environment (options_next_env) */
  struct text commands; /* OPT_COMMANDS */
  uint8_t stdio[3];     /* enum mf_stdio_kind */
  uint8_t session, leash, handles, gc, dumpable, pipe_leash, introduce, tree, thread,
      lazy, image_verify, words;
  unsigned has_env : 1, has_stdio : 1, has_step : 1;
  uint32_t slot;                   /* PROTO_NO_SLOT: none */
  uint32_t connection;             /* its socket is that one; 0: comes with the frame */
  uint32_t step_first, step_count; /* has_step: two descriptors */
  uint64_t heap_reserve;
  int ntree_fds;    /* descriptors that tree needs: 1 in a FORK with it */
  int nstdio_fds;   /* and those of stdio */
  int ncommand_fds; /* and those of the inner commands */
  int has_run;      /* the inner commands end with RUN */
};

/* Parses the options of a FORK (fork 1) or SETUP (0). 0 or -EPROTO: short, an unknown
 * tag, a value out of range, text with a NUL byte, options that are not for this
 * command, or inner frames that are none of ARG, FD, RUN, torn, or follow a RUN. */
int options_parse(struct options *ret, const void *body, size_t length, int fork);

/* Before the descriptors of stdio: the socket, the life of a thread, those of a step, the
 * leash of a tree. */
static inline int options_first_stdio(const struct options *o) {
  return 1 + o->thread + 2 * o->has_step + o->ntree_fds;
}

struct env_change {
  struct text text; /* "NAME=value", or "NAME": unset */
  int unset;
};
/* Walks the changes of the environment in order; *at begins at 0. 1, or 0 at the end. */
int options_next_env(const struct options *o, size_t *at, struct env_change *ret);

/* Walks the inner frames; *at begins at 0. 0, MF_EOF at the end, -EPROTO. */
int options_next_frame(struct text commands, size_t *at, struct frame *ret);

struct eval {
  struct text code, name; /* name.p NULL: none was given */
  uint32_t argc;
  struct reader args; /* at the first of argc strings (reader_str) */
};
/* EVAL. 0 or -EPROTO. */
int options_parse_eval(struct eval *ret, const void *body, size_t length);
/* SETENV. 0 or -EPROTO (also a name that is empty or has '=' or NUL in it). */
int options_parse_setenv(const void *body, size_t length, struct text *ret_name,
                         struct text *ret_value);
struct set {
  struct text name; /* no part of it is empty */
  struct text message;
};
/* SET. 0 or -EPROTO (also a malformed name). */
int options_parse_set(struct set *ret, const void *body, size_t length);
/* SETUP's head: magic, version, build. Moves *body to the options. 0, -EPROTO, or
 * -EPROTONOSUPPORT: another version (given in *ret_version). */
int options_parse_setup(const void *body, size_t length,
                        const unsigned char **ret_options, size_t *ret_length,
                        unsigned *ret_version, struct build *ret_build);
struct limit_value {
  uint32_t which; /* enum proto_limit */
  uint64_t value; /* UINT64_MAX: infinity */
};
/* The at-th of LIMIT. 0, MF_EOF, -EPROTO. */
int options_parse_limit(const void *body, size_t length, size_t at,
                        struct limit_value *ret);

#endif
