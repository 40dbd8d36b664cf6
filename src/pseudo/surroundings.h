/* What a pseudo-process has of its own beside its memory. The kernel keeps descriptors,
 * directory and file mode mask for a thread that does not share them; the environment is
 * a table of ours. */
#ifndef PSEUDO_SURROUNDINGS_H
#define PSEUDO_SURROUNDINGS_H

struct surroundings;

/* A copy of `from`; NULL: of the program's environment. NULL: no memory. */
struct surroundings *surroundings_new(const struct surroundings *from);
void surroundings_free(struct surroundings *s);
/* By the thread that is to have its own descriptors, directory and mask: copies of what
 * it has now. 0, or -errno: -EPERM where a sandbox forbids it. */
int surroundings_separate(void);
/* NULL: it is not set. Valid until it is changed. */
const char *surroundings_get(const struct surroundings *s, const char *name);
/* value NULL: removes it. 0 or -ENOMEM. */
int surroundings_set(struct surroundings *s, const char *name, const char *value);
/* For execve. */
char *const *surroundings_environ(const struct surroundings *s);

#endif
