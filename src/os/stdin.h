/* Standard input of stdio when its descriptor is given another file. Runs in clones. */
#ifndef OS_STDIN_H
#define OS_STDIN_H

/* Forgets what was read ahead of the old file, and that it had come to its end or failed:
 * neither is true of the new one. */
void stdin_reset(void);

#endif
