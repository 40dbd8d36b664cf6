/* Before a test: which descriptors are open, and no child. After it: the same, or the
 * test fails and says what differs. In between a deadline. Runs in the test program.
 *
 *   cmocka_unit_test_setup_teardown(test_it, census_setup, census_teardown)
 */
#ifndef HELP_CENSUS_H
#define HELP_CENSUS_H

enum { CENSUS_DEADLINE_S = 30 }; /* for one test; then the program ends by SIGALRM */

/* Counts and starts the deadline. 0, or -1 (more descriptors than it can remember, or a
 * child that an earlier test left). */
int census_begin(void);
/* Compares and stops the deadline; prints each difference to standard error. Returns the
 * number of differences: a descriptor gone, new, or naming another file than before, and
 * a child that nobody reaped (it is killed and reaped, for the sake of the next test). */
int census_end(void);

/* The same as cmocka wants it; they leave *state alone. */
int census_setup(void **state);
int census_teardown(void **state);
#define census_test(f) cmocka_unit_test_setup_teardown(f, census_setup, census_teardown)

#endif
