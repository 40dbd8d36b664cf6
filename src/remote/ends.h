/* The two ends of a link, each a program of its own by its first argument. */
#ifndef REMOTE_ENDS_H
#define REMOTE_ENDS_H

/* Behind the command, on standard input and output. words: the template program, and
 * package.path and package.cpath of templates that are given none, or neither;
 * NULL-terminated. What they return is the exit status. */
int remote_agent(char **words);
/* Started by the parent: its side is descriptor 3, its leash descriptor 4. command:
 * NULL-terminated. */
int remote_near(char **command);

#endif
