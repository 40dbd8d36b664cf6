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
  switch (code) {
  case 0:
    return "OK";
  case MF_EINVAL:
    return "EINVAL"; /* the one whose name in Lua begins with an E */
#define NAME(name, value, text)                                                          \
  case value:                                                                            \
    return #name;
#define MF_ERROR_NAMES(X)                                                                \
  X(REMOTE, MF_EREMOTE, "")                                                              \
  X(CLONE_DIED, MF_ECLONE_DIED, "")                                                      \
  X(TEMPLATE_START, MF_ETEMPLATE_START, "")                                              \
  X(TEMPLATE_DIED, MF_ETEMPLATE_DIED, "")                                                \
  X(FORK_FAILED, MF_EFORK_FAILED, "")                                                    \
  X(TIMEOUT, MF_ETIMEOUT, "")                                                            \
  X(CANCELLED, MF_ECANCELLED, "")                                                        \
  X(CLOSED, MF_ECLOSED, "")                                                              \
  X(LIMIT, MF_ELIMIT, "")                                                                \
  X(PROTOCOL, MF_EPROTOCOL, "")                                                          \
  X(NOMEM, MF_ENOMEM, "")                                                                \
  X(UNSUPPORTED, MF_EUNSUPPORTED, "")                                                    \
  X(STATE, MF_ESTATE, "")                                                                \
  X(FORKED, MF_EFORKED, "")
    MF_ERROR_NAMES(NAME)
  }
  return uv_err_name(code);
}

unsigned mf_version(void) {
  return MF_VERSION_NUMBER;
}

const char *mf_version_string(void) {
  return MF_VERSION_STRING;
}
