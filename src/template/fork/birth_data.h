/* Before the first fork: the libraries' data leave the memory that fork copies
 * (birth_data.c says how). Does nothing where that can't be had. */
#ifndef TEMPLATE_FORK_BIRTH_DATA_H
#define TEMPLATE_FORK_BIRTH_DATA_H

void birth_data_prepare(void);

#endif
