/* Which options make a fork differ from a plain one. Two lists of the same nine fields
 * stood in two files: an option that one of them lacked would have been dropped in
 * silence by a spare or by a pool that starts its template again. Now one predicate
 * stands beside the encoder, and this test holds the two against each other for every
 * field of the struct. */
#include "unit.h"

#include "parent/process/process.h"
#include <string.h>

enum { ACTS, FORK_ONLY, SETUP_ONLY, PARENT_ONLY };

static const char *const changes[] = {"NAME=value", NULL};

#define NUMBER(field, what)                                                              \
  { #field, what, offsetof(mf_options, field), sizeof(((mf_options *)0)->field), NULL }
#define POINTER(field, value, what)                                                      \
  { #field, what, offsetof(mf_options, field), sizeof(void *), value }

static const struct field {
  const char *name;
  int what;
  size_t offset, size;
  const void *pointer; /* its value; NULL: a number */
} fields[] = {
    POINTER(loop, "a loop", PARENT_ONLY),
    POINTER(program, "/bin/true", PARENT_ONLY),
    POINTER(env, changes, ACTS),
    POINTER(cwd, "/", ACTS),
    POINTER(lua_path, "?.lua", SETUP_ONLY),
    POINTER(lua_cpath, "?.so", SETUP_ONLY),
    NUMBER(stdio[0].kind, ACTS),
    NUMBER(stdio[0].fd, PARENT_ONLY),
    NUMBER(stdio[1].kind, ACTS),
    NUMBER(stdio[1].fd, PARENT_ONLY),
    NUMBER(stdio[2].kind, ACTS),
    NUMBER(stdio[2].fd, PARENT_ONLY),
    NUMBER(gc, SETUP_ONLY),
    NUMBER(leash, ACTS),
    NUMBER(handles, ACTS),
    NUMBER(new_session, ACTS),
    NUMBER(timeout_ms, PARENT_ONLY),
    POINTER(name, "a name", ACTS),
    NUMBER(spares_min, PARENT_ONLY),
    NUMBER(spares_max, PARENT_ONLY),
    NUMBER(heap_reserve, SETUP_ONLY),
    NUMBER(dumpable, ACTS),
    NUMBER(tree, ACTS),
    NUMBER(isolation, FORK_ONLY),
    NUMBER(lazy, FORK_ONLY), /* options_load wants isolation with it */
    POINTER(command, changes, PARENT_ONLY),
    NUMBER(beat_ms, PARENT_ONLY),
    NUMBER(window, PARENT_ONLY),
    POINTER(image, "a file", SETUP_ONLY),
    NUMBER(image_verify, SETUP_ONLY),
};
enum { NFIELDS = sizeof fields / sizeof fields[0] };

static void set(mf_options *o, const struct field *f) {
  unsigned char *at = (unsigned char *)o + f->offset;
  unsigned number = 1;
  size_t wide = 1;
  if (f->pointer)
    memcpy(at, &f->pointer, sizeof f->pointer);
  else if (f->size == sizeof number)
    memcpy(at, &number, sizeof number);
  else
    memcpy(at, &wide, sizeof wide);
}

/* The bytes that the options become, in all. */
static size_t encoded(const mf_options *o, int setup) {
  struct buf out;
  struct fdset fds;
  size_t n;
  buf_init(&out, 1 << 16);
  fdset_init(&fds);
  assert_int_equal(options_encode(o, setup, &out, &fds), 0);
  n = buf_size(&out);
  buf_deinit(&out);
  fdset_close(&fds);
  return n;
}

static void test_every_field_of_the_struct_is_in_the_list(void **state) {
  unsigned char seen[sizeof(mf_options)] = {0};
  (void)state;
  memset(seen, 1, sizeof(size_t)); /* size */
  for (int i = 0; i < NFIELDS; i++)
    memset(seen + fields[i].offset, 1, fields[i].size);
  for (size_t at = 0, gap = 0; at < sizeof seen; at++) {
    gap = seen[at] ? 0 : gap + 1;
    if (gap >= sizeof(void *)) /* more than the compiler leaves between two fields */
      fail_msg("the field at byte %zu is not in the list", at + 1 - gap);
  }
}

static void test_what_acts_at_birth_is_what_a_fork_sends(void **state) {
  (void)state;
  for (int i = 0; i < NFIELDS; i++) {
    mf_options o = MF_OPTIONS_INIT;
    set(&o, &fields[i]);
    int acts = fields[i].what <= FORK_ONLY;
    if (options_act_at_birth(&o) != acts || (encoded(&o, 0) != 0) != acts)
      fail_msg("%s: %d, and %zu bytes in a fork", fields[i].name,
               options_act_at_birth(&o), encoded(&o, 0));
    if ((encoded(&o, 1) != 0) != (fields[i].what == ACTS || fields[i].what == SETUP_ONLY))
      fail_msg("%s: %zu bytes in a setup", fields[i].name, encoded(&o, 1));
  }
}

static void test_no_options_change_nothing(void **state) {
  mf_options o = MF_OPTIONS_INIT;
  (void)state;
  assert_int_equal(options_act_at_birth(NULL), 0);
  assert_int_equal(options_act_at_birth(&o), 0);
  assert_int_equal(encoded(&o, 1), 0);
}

static void test_lazy_is_of_threads_and_in_its_range(void **state) {
  static const struct {
    int isolation, lazy, expected;
  } rows[] = {{MF_ISOLATION_THREAD, MF_LAZY_NO, 0},
              {MF_ISOLATION_THREAD, MF_LAZY_YES, 0},
              {MF_ISOLATION_THREAD, MF_LAZY_TRY, 0},
              {MF_ISOLATION_THREAD, MF_LAZY_TRY + 1, MF_EINVAL},
              {MF_ISOLATION_THREAD, -1, MF_EINVAL},
              {MF_ISOLATION_PROCESS, MF_LAZY_NO, 0},
              {MF_ISOLATION_PROCESS, MF_LAZY_YES, MF_EINVAL},
              {MF_ISOLATION_PROCESS, MF_LAZY_TRY, MF_EINVAL}};
  (void)state;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    mf_options o = MF_OPTIONS_INIT, loaded;
    o.isolation = rows[i].isolation;
    size_t eager = encoded(&o, 0);
    o.lazy = rows[i].lazy;
    assert_int_equal(options_load(&o, &loaded), rows[i].expected);
    if (rows[i].expected == 0)
      assert_int_equal(encoded(&loaded, 0) > eager, rows[i].lazy != MF_LAZY_NO);
  }
}

static void test_values_have_ranges(void **state) {
  static const struct {
    size_t offset;
    int most;
  } rows[] = {{offsetof(mf_options, gc), MF_GC_STOP},
              {offsetof(mf_options, leash), MF_LEASH_KEEP},
              {offsetof(mf_options, handles), MF_HANDLES_CLOSE},
              {offsetof(mf_options, dumpable), MF_DUMPABLE_NO},
              {offsetof(mf_options, tree), MF_TREE_NO},
              {offsetof(mf_options, isolation), MF_ISOLATION_THREAD},
              {offsetof(mf_options, image_verify), 1}};
  mf_options loaded;
  (void)state;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    for (int value = -1; value <= rows[i].most + 1; value++) {
      mf_options o = MF_OPTIONS_INIT;
      memcpy((char *)&o + rows[i].offset, &value, sizeof value);
      int expected = value >= 0 && value <= rows[i].most ? 0 : MF_EINVAL;
      if (options_load(&o, &loaded) != expected)
        fail_msg("row %zu: %d", i, value);
    }
  mf_options o = MF_OPTIONS_INIT;
  o.image = "";
  assert_int_equal(options_load(&o, &loaded), MF_EINVAL);
  o.image = "i";
  o.new_session = 256; /* any but 0 is yes */
  assert_int_equal(options_load(&o, &loaded), 0);
  assert_int_equal(loaded.new_session, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_field_of_the_struct_is_in_the_list),
      cmocka_unit_test(test_what_acts_at_birth_is_what_a_fork_sends),
      cmocka_unit_test(test_no_options_change_nothing),
      cmocka_unit_test(test_lazy_is_of_threads_and_in_its_range),
      cmocka_unit_test(test_values_have_ranges),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
