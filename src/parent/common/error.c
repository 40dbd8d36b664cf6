/* Codes, names, texts, versions. Pure. */
#include <moonfork.h>

#include <uv.h>

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
  return uv_strerror(code);
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
