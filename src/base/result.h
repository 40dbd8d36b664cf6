/* What functions inside the library return: 0 done, negative a negated errno to pass up
 * unchanged, positive an outcome that the function documents. */
#ifndef BASE_RESULT_H
#define BASE_RESULT_H

enum {
  MF_AGAIN = 1, /* nothing now: would block, or more bytes are needed */
  MF_EOF = 2    /* orderly end of the stream */
};

#endif
