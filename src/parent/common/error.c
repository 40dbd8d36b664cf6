/* Codes, names, texts, versions. Pure. */
#include <moonfork.h>

#include <string.h>
#include <uv.h>

/* Above what libuv numbers itself: these are negated errnos, with the system's words, as
 * everywhere else. libuv has words of its own for the same. */
enum { ERRNO_LEAST = -2999 };

const char *mf_strerror(int code) {
  switch (code) {
  case 0:
    return "no error";
#define TEXT(name, value, text)                                                          \
  case value:                                                                            \
    return text;
    MF_ERROR_MAP(TEXT)
#undef TEXT
  }
  return code >= ERRNO_LEAST && code < 0 ? strerror(-code) : uv_strerror(code);
}

const char *mf_errname(int code) {
  if (code == MF_EINVAL)
    return "EINVAL"; /* the one whose name in Lua begins with an E */
  switch (code) {
  case 0:
    return "OK";
#define NAME(name, value, text)                                                          \
  case value:                                                                            \
    return #name;
    MF_ERROR_MAP(NAME)
#undef NAME
  }
  return uv_err_name(code);
}

unsigned mf_version(void) {
  return MF_VERSION_NUMBER;
}

const char *mf_version_string(void) {
  return MF_VERSION_STRING;
}
