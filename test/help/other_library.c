/* What the dynamic linker finds as libmoonfork.so.0 of another version, in a story. */
__attribute__((visibility("default"))) const char *mf_version_string(void);
const char *mf_version_string(void) {
  return "0.0.3";
}
