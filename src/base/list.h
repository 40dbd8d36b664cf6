/* Intrusive doubly linked list with a head that is a link itself. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stddef.h>

struct list {
  struct list *next, *prev;
};

#define list_entry(link, type, member)                                                   \
  ((type *)(void *)((char *)(link)-offsetof(type, member)))

static inline void list_init(struct list *l) {
  l->next = l->prev = l;
}
static inline int list_empty(const struct list *l) {
  return l->next == l;
}
static inline void list_push(struct list *head, struct list *l) { /* at the end */
  l->prev = head->prev;
  l->next = head;
  head->prev->next = l;
  head->prev = l;
}
static inline void list_remove(struct list *l) { /* leaves l empty; twice is harmless */
  l->prev->next = l->next;
  l->next->prev = l->prev;
  list_init(l);
}
static inline void list_move(struct list *to,
                             struct list *from) { /* all; to is overwritten */
  if (list_empty(from)) {
    list_init(to);
    return;
  }
  *to = *from;
  to->next->prev = to->prev->next = to;
  list_init(from);
}
static inline void list_append(struct list *to,
                               struct list *from) { /* all, at the end of to */
  if (list_empty(from))
    return;
  from->next->prev = to->prev;
  to->prev->next = from->next;
  from->prev->next = to;
  to->prev = from->prev;
  list_init(from);
}
#define list_each(it, head)                                                              \
  for (struct list *it = (head)->next; it != (head); it = it->next)
#define list_each_safe(it, tmp, head)                                                    \
  for (struct list *it = (head)->next, *tmp = it->next; it != (head);                    \
       it = tmp, tmp = it->next)

#endif
