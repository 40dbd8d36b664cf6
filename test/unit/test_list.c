/* struct list: order, removal in the middle and while walking. */
#include "unit/unit.h"

#include "base/list.h"

struct item {
  int value;
  struct list link;
};

static int sum_in_order(struct list *head) { /* 1, 2, 3 gives 123 */
  int digits = 0;
  list_each(it, head) digits = digits * 10 + list_entry(it, struct item, link)->value;
  return digits;
}

static void test_push_keeps_the_order(void **state) {
  struct list head;
  struct item a = {.value = 1}, b = {.value = 2}, c = {.value = 3};
  list_init(&head);
  assert_true(list_empty(&head));
  list_push(&head, &a.link);
  list_push(&head, &b.link);
  list_push(&head, &c.link);
  assert_int_equal(sum_in_order(&head), 123);
  assert_false(list_empty(&head));
}

static void test_remove_leaves_the_link_empty(void **state) {
  struct list head;
  struct item a = {.value = 1}, b = {.value = 2}, c = {.value = 3};
  list_init(&head);
  list_push(&head, &a.link);
  list_push(&head, &b.link);
  list_push(&head, &c.link);
  list_remove(&b.link);
  list_remove(&b.link); /* twice is harmless */
  assert_true(list_empty(&b.link));
  assert_int_equal(sum_in_order(&head), 13);
  list_push(&head, &b.link);
  assert_int_equal(sum_in_order(&head), 132);
}

static void test_safe_walk_may_remove_every_item(void **state) {
  struct list head;
  struct item items[5];
  list_init(&head);
  for (int i = 0; i < 5; i++) {
    items[i].value = i;
    list_push(&head, &items[i].link);
  }
  int seen = 0;
  list_each_safe(it, next, &head) {
    seen++;
    list_remove(it);
  }
  assert_int_equal(seen, 5);
  assert_true(list_empty(&head));
}

static void test_move_takes_all_and_leaves_none(void **state) {
  struct list from, to;
  struct item a = {.value = 1}, b = {.value = 2};
  list_init(&from);
  list_move(&to, &from);
  assert_true(list_empty(&to));
  list_push(&from, &a.link);
  list_push(&from, &b.link);
  list_move(&to, &from);
  assert_true(list_empty(&from));
  assert_int_equal(sum_in_order(&to), 12);
  list_remove(&a.link);
  list_remove(&b.link);
  assert_true(list_empty(&to));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_push_keeps_the_order),
      census_test(test_remove_leaves_the_link_empty),
      census_test(test_safe_walk_may_remove_every_item),
      census_test(test_move_takes_all_and_leaves_none),
  };
  return cmocka_run_group_tests_name("list", tests, NULL, NULL);
}
