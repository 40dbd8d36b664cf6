/* Fields of metatables that speak for userdata when the interpreter is copied: to a file, or
 * in the process (image/userdata.h). */
#ifndef BASE_COPIED_H
#define BASE_COPIED_H

/* f(object) is called for each in the copy, before anything else runs there. Public. */
#define COPIED_FIELD "__clone"
/* f(object) gives a text, why it can't be in an image, or nothing. A running function is
 * saved with it all the same: what it stands for stays with the process. The library's own
 * objects have it. */
#define COPIED_SAVE_FIELD "__moonfork_save"
/* f(object) frees what it has outside of the interpreter, where the interpreter ends in a
 * process that goes on, and no finalisers run: a thread that was killed, a pseudo-process
 * that ends by os.exit. Of the library's own objects alone. */
#define COPIED_END_FIELD "__moonfork_end"

#endif
