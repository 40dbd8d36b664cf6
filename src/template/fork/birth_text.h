/* What the template program does at its first fork, so that births cost fewer page
 * faults. Not in the library or the Lua module: there the program is somebody else's. */
#ifndef TEMPLATE_FORK_BIRTH_TEXT_H
#define TEMPLATE_FORK_BIRTH_TEXT_H

void birth_text_prepare(void);

#endif
