/* Inputs of commands that this program may write to (doc/remote-protocol.md, "The
 * program's own FORKs"). A copy of the program made by fork(2) closes them at once,
 * whatever it does: a command sees the end of its input when nobody has it any more. Runs
 * in the parent, on any thread, and in the copy. */
#ifndef PARENT_PROCESS_FAR_INPUT_H
#define PARENT_PROCESS_FAR_INPUT_H

struct far_input;

/* Copies close fd, which is borrowed. NULL: not enough memory. */
struct far_input *far_input_keep(int fd);
/* After fd was closed. input may be NULL. */
void far_input_forget(struct far_input *input);
/* In a copy that fork(2) has not made: its fd is closed now. input may be NULL. */
void far_input_forked(struct far_input *input);

#endif
