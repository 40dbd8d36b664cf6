/* A file that replaces another as a whole (template/image/replacement.h), on a file
 * system that has files without names, and on one that has none: access is made to fail,
 * as where there is no /proc to give them a name. Processes are killed before and after
 * each step. */
#include "template/image/replacement.h"

#include "unit/unit.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int has_nameless; /* files */

int __real_access(const char *path, int mode);
int __wrap_access(const char *path, int mode);
int __wrap_access(const char *path, int mode) {
  if (!has_nameless) {
    errno = ENOENT;
    return -1;
  }
  return __real_access(path, mode);
}

static char folder[] = "/tmp/moonfork-replacement-XXXXXX", path[300];

static void write_text(const char *name, const char *text, int mode) {
  char full[300];
  snprintf(full, sizeof full, "%s/%s", folder, name);
  int fd = open(full, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  assert_true(fd >= 0 && fchmod(fd, (mode_t)mode) == 0);
  assert_int_equal(write(fd, text, strlen(text)), strlen(text));
  close(fd);
}

static int holds(const char *name, const char *text) {
  char full[300], got[100] = "";
  snprintf(full, sizeof full, "%s/%s", folder, name);
  int fd = open(full, O_RDONLY | O_NONBLOCK);
  ssize_t n = fd < 0 ? -1 : read(fd, got, sizeof got - 1);
  close(fd);
  return n >= 0 && strcmp(got, text) == 0;
}

static int count(void) {
  DIR *d = opendir(folder);
  const struct dirent *e;
  int n = 0;
  assert_non_null(d);
  while ((e = readdir(d)))
    n += e->d_name[0] != '.';
  closedir(d);
  return n;
}

static int begin(struct replacement *r, const char *text) {
  const char *why = NULL;
  int result = replacement_begin(r, path, &why);
  if (result == 0)
    assert_int_equal(write(r->fd, text, strlen(text)), strlen(text));
  return result;
}

static int set_up(void **state) {
  strcpy(folder + sizeof folder - 7, "XXXXXX");
  assert_non_null(mkdtemp(folder));
  int fd = *state ? -1 : open(folder, O_TMPFILE | O_RDWR, 0600);
  has_nameless = fd >= 0; /* else this file system has none */
  if (fd >= 0)
    close(fd);
  snprintf(path, sizeof path, "%s/name", folder);
  return census_begin();
}

static int tear_down(void **state) {
  char command[320];
  snprintf(command, sizeof command, "rm -rf '%s'", folder);
  return system(command) || census_end();
}

static void test_it_is_there_after_the_commit_and_not_before(void **state) {
  for (int i = 0; i < 3; i++) {
    struct replacement r;
    struct stat st;
    char text[20];
    snprintf(text, sizeof text, "text %d", i);
    assert_int_equal(begin(&r, text), 0);
    assert_false(holds("name", text));
    assert_int_equal(replacement_commit(&r), 0);
    assert_true(holds("name", text));
    replacement_end(&r);
    assert_true(holds("name", text));
    assert_int_equal(count(), 1);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_nlink, 1);
  }
}

static void test_without_a_commit_nothing_changes(void **state) {
  struct replacement r;
  assert_int_equal(begin(&r, "new"), 0);
  replacement_end(&r);
  assert_int_equal(count(), 0);
  write_text("name", "old", 0640);
  assert_int_equal(begin(&r, "new"), 0);
  replacement_end(&r);
  assert_true(holds("name", "old"));
  assert_int_equal(count(), 1);
}

static void test_two_at_once_are_both_whole(void **state) {
  struct replacement a, b;
  assert_int_equal(begin(&a, "a"), 0);
  assert_int_equal(begin(&b, "b"), 0); /* does not take a's for a stale one */
  assert_int_equal(replacement_commit(&a), 0);
  assert_true(holds("name", "a"));
  assert_int_equal(replacement_commit(&b), 0);
  assert_true(holds("name", "b"));
  replacement_end(&b);
  replacement_end(&a);
  assert_true(holds("name", "b"));
  assert_int_equal(count(), 1);
}

static void killed(int commits) {
  pid_t pid = fork();
  if (pid == 0) {
    struct replacement r;
    int ok = begin(&r, "new") == 0 && (!commits || replacement_commit(&r) == 0);
    _exit(ok ? 0 : 1); /* nobody ends it */
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_int_equal(status, 0);
}

static void test_of_a_killed_one_nothing_stays_but_until_the_next(void **state) {
  struct replacement r;
  write_text("name", "old", 0600);
  killed(0);
  assert_true(holds("name", "old"));
  assert_int_equal(count(), has_nameless ? 1 : 2);
  killed(0);
  assert_int_equal(count(), has_nameless ? 1 : 2); /* it has removed the first one's */
  killed(1);
  assert_true(holds("name", "new"));
  assert_int_equal(count(), 1);
  killed(0);
  assert_int_equal(begin(&r, "newer"), 0);
  assert_int_equal(replacement_commit(&r), 0);
  replacement_end(&r);
  assert_true(holds("name", "newer"));
  assert_int_equal(count(), 1);
}

/* Names that others have made stay, and so does what somebody works on. */
static void test_only_what_a_killed_one_has_left_is_removed(void **state) {
  static const struct {
    const char *name;
    int mode, goes;
  } others[] = {{"name.moonfork-abcdef", 0600, 1},  {"name.moonfork-ABC123", 0600, 1},
                {"name.moonfork-abcdeg", 0644, 0},  {"name.moonfork-abcde", 0600, 0},
                {"name.moonfork-abcdefg", 0600, 0}, {"name.backup", 0600, 0},
                {"name.XXXXXX", 0600, 0},           {"other.moonfork-abcdef", 0600, 0},
                {"name2.moonfork-abcdef", 0600, 0}, {"Name.moonfork-abcdef", 0600, 0}};
  struct replacement r;
  char full[300];
  for (size_t i = 0; i < COUNT(others); i++)
    write_text(others[i].name, "theirs", others[i].mode);
  write_text("name.moonfork-locked", "theirs", 0600);
  snprintf(full, sizeof full, "%s/name.moonfork-locked", folder);
  int fd = open(full, O_RDONLY);
  assert_int_equal(flock(fd, LOCK_EX), 0);
  snprintf(full, sizeof full, "%s/name.moonfork-folder", folder);
  assert_int_equal(mkdir(full, 0600), 0);
  snprintf(full, sizeof full, "%s/name.moonfork-a_link", folder);
  assert_int_equal(symlink("name.backup", full), 0);
  assert_int_equal(begin(&r, "new"), 0);
  replacement_end(&r);
  for (size_t i = 0; i < COUNT(others); i++)
    assert_int_equal(holds(others[i].name, "theirs"), !others[i].goes);
  assert_true(holds("name.moonfork-locked", "theirs"));
  assert_int_equal(count(), (int)COUNT(others) - 2 + 3);
  close(fd); /* its owner was killed */
  assert_int_equal(begin(&r, "new"), 0);
  replacement_end(&r);
  assert_false(holds("name.moonfork-locked", "theirs"));
}

static void test_what_is_no_file_is_not_replaced_and_a_link_is(void **state) {
  struct replacement r;
  const char *why = NULL;
  assert_int_equal(mkdir(path, 0700), 0);
  assert_int_equal(begin(&r, ""), -EISDIR);
  replacement_end(&r);
  rmdir(path);
  assert_int_equal(mkfifo(path, 0600), 0);
  assert_int_equal(replacement_begin(&r, path, &why), -EEXIST);
  replacement_end(&r);
  assert_non_null(strstr(why, "is no file"));
  unlink(path);
  write_text("target", "old", 0600);
  for (int dangling = 0; dangling < 2; dangling++) {
    assert_int_equal(symlink(dangling ? "nowhere" : "target", path), 0);
    assert_int_equal(begin(&r, "new"), 0);
    assert_int_equal(replacement_commit(&r), 0);
    replacement_end(&r);
    assert_true(holds("name", "new") && holds("target", "old"));
    assert_int_equal(count(), 2);
    unlink(path);
  }
}

static void test_names_may_be_as_long_as_the_system_allows(void **state) {
  char name[NAME_MAX + 2];
  for (int n = NAME_MAX - 20; n <= NAME_MAX + 1; n++) {
    struct replacement r;
    memset(name, 'n', (size_t)n);
    name[n] = '\0';
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (n > NAME_MAX) {
      assert_int_equal(begin(&r, ""), -ENAMETOOLONG);
      replacement_end(&r);
      continue;
    }
    for (int i = 0; i < 2; i++) {
      assert_int_equal(begin(&r, "long"), 0);
      assert_int_equal(replacement_commit(&r), 0);
      replacement_end(&r);
      assert_true(holds(name, "long"));
    }
    unlink(path);
  }
  assert_int_equal(count(), 0);
}

static void test_what_can_not_be_written_says_why(void **state) {
  struct replacement r;
  static const struct {
    const char *path;
    int error;
  } cases[] = {
      {"", -ENOENT},      {"/no/such/folder/x", -ENOENT}, {"/", -EISDIR},
      {"/tmp/", -EISDIR}, {"/dev/null/x", -ENOTDIR},      {"/proc/self/x", -ENOENT}};
  for (size_t i = 0; i < COUNT(cases); i++) {
    const char *why = NULL;
    int result = replacement_begin(&r, cases[i].path, &why);
    assert_true(result == cases[i].error || (i == 5 && result < 0));
    assert_null(why);
    replacement_end(&r);
  }
}

#define BOTH(test)                                                                       \
  cmocka_unit_test_prestate_setup_teardown(test, set_up, tear_down, NULL),               \
      cmocka_unit_test_prestate_setup_teardown(test, set_up, tear_down, TEXT("named"))

int main(void) {
  const struct CMUnitTest tests[] = {
      BOTH(test_it_is_there_after_the_commit_and_not_before),
      BOTH(test_without_a_commit_nothing_changes),
      BOTH(test_two_at_once_are_both_whole),
      BOTH(test_of_a_killed_one_nothing_stays_but_until_the_next),
      BOTH(test_only_what_a_killed_one_has_left_is_removed),
      BOTH(test_what_is_no_file_is_not_replaced_and_a_link_is),
      BOTH(test_names_may_be_as_long_as_the_system_allows),
      BOTH(test_what_can_not_be_written_says_why),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
