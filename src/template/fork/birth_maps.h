/* Before the first fork: the mappings of each library that nobody writes to become one,
 * and those of the program's variables, too (birth_maps.c says why). Does nothing where
 * that can't be had. */
#ifndef TEMPLATE_FORK_BIRTH_MAPS_H
#define TEMPLATE_FORK_BIRTH_MAPS_H

void birth_maps_prepare(void);

#endif
