/* A second reading of HTTP/1.1, by the letter of RFC 9112, to compare the server's with. One
 * pass over bytes that are all there; it knows nothing of http_parser and is not fast. Of
 * what the RFC leaves to the receiver it allows: empty lines before a request, several
 * blanks in the request line, and an LF without CR behind a line of the head or of the
 * trailer. */
#ifndef HTTP_STRICT_H
#define HTTP_STRICT_H

#include <stddef.h>

enum { STRICT_FIELDS_MAX = 256 };

enum strict { STRICT_WHOLE, STRICT_MORE, STRICT_WRONG };

struct strict_text {
  const char *at; /* borrowed from the bytes that were read */
  size_t size;
};

struct strict_field {
  struct strict_text name, value;
};

struct strict_request {
  struct strict_text method, target;
  int minor; /* of the version, 1.x */
  struct strict_field fields[STRICT_FIELDS_MAX];
  size_t nfields;
  char *body; /* as many bytes as were read have room */
  size_t body_size;
  size_t end;      /* the first byte behind the request */
  int is_plain;    /* nothing about it gives a server reason to refuse it */
  const char *why; /* it is wrong */
};

/* What begins at `data`. `r->body` is the caller's, with room for `size` bytes. */
enum strict strict_read(const char *data, size_t size, struct strict_request *r);

struct strict_answer {
  int status, is_chunked, ends_with_connection;
  size_t end;
};

/* The same for an answer to a request of that method. STRICT_MORE: it is cut. */
enum strict strict_read_answer(const char *data, size_t size, int is_to_head,
                               struct strict_answer *a);

int strict_is(struct strict_text text, const char *word); /* in any case */

#endif
