/* The mark in the environment of a program that is started as a template.
 * mf_template_check takes it away. A program that goes on as a host instead, because its
 * main() does not call that function, and is its own template program, would start itself
 * without end: the mark that it has still tells it. Runs in the parent. */
#ifndef PARENT_START_MARK_H
#define PARENT_START_MARK_H

/* The environment of this process with the mark, for an exec; the array is to be freed,
 * what it points to is borrowed. NULL: no memory. */
char **mark_environment(void);
void mark_free(char **environment);
/* Whether this process was started as a template and did not become one. Then it lets go
 * of the control socket that it was given, so that its starter is told at once. */
int mark_is_left(void);

#endif
