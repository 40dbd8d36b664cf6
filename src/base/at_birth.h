/* AT_BIRTH marks variables that every new clone writes. They lie side by side in a section
 * of their own, at the end of the program's data, where what is zero at first follows, the
 * server first of all (template/server/storage.c): so a birth copies one page for all of
 * them, instead of one for each. Nothing but speed depends on it. */
#ifndef BASE_AT_BIRTH_H
#define BASE_AT_BIRTH_H

#if defined(__ELF__) && defined(__GNUC__)
#define AT_BIRTH __attribute__((section(".birth")))
#else
#define AT_BIRTH
#endif

#endif
