/* Records of chunks in the near end and in the agent: which files are some, how many there
 * are at most, and what the other side may say about them. */
#include "unit.h"

#include "os/fd.h"
#include "os/share.h"
#include "remote/records.h"
#include "wire/chunk.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* They live as long as their process: nothing takes them down. So each test has its own. */
static struct records *near_end, *agent;

static void new_ends(void) {
  static struct records all[16];
  static int used;
  near_end = &all[used++];
  agent = &all[used++];
  records_init(near_end);
  records_init(agent);
}

static int classify(int fd, struct link_descriptor *ret, struct buf *out) {
  struct stat st;
  assert_int_equal(fstat(fd, &st), 0);
  return records_classify(near_end, fd, &st, ret, out);
}

static struct chunk_record *new_record(int *ret_fd) {
  void *map;
  assert_int_equal(share_new(CHUNK_RECORD_SIZE, ret_fd, &map), 0);
  return map;
}

/* A file of a user's, which has the size of a record by chance: it was taken for one, and
 * written to. */
static void leave_file_alone(struct buf *out) {
  FILE *file = tmpfile();
  struct link_descriptor d;
  unsigned char head[16] = {0};
  assert_non_null(file);
  assert_int_equal(ftruncate(fileno(file), CHUNK_RECORD_SIZE), 0);
  assert_int_equal(classify(fileno(file), &d, out), 0);
  assert_int_equal(pread(fileno(file), head, sizeof head, 0), sizeof head);
  for (size_t i = 0; i < sizeof head; i++)
    assert_int_equal(head[i], 0);
  fclose(file);
}

static void test_other_files_are_no_records(void **state) {
  struct link_descriptor d;
  struct buf out;
  void *map;
  int fd, ends[2];
  buf_init(&out, SIZE_MAX);
  new_ends();
  assert_int_equal(share_new(CHUNK_RECORD_SIZE - 1, &fd, &map), 0);
  assert_int_equal(classify(fd, &d, &out), 0);
  share_unmap(map, CHUNK_RECORD_SIZE - 1);
  fd_close(&fd);
  assert_int_equal(pipe(ends), 0);
  assert_int_equal(classify(ends[0], &d, &out), 0);
  close(ends[0]);
  close(ends[1]);
  leave_file_alone(&out);
  assert_int_equal(near_end->count, 0);
  assert_int_equal(buf_size(&out), 0);
  buf_deinit(&out);
}

/* The frames in `out` drop the records from `first` on, in order. Gives how many. */
static unsigned count_drops(const struct buf *out, struct buf *copy, uint32_t first) {
  struct link_frame f;
  unsigned n = 0;
  buf_init(copy, SIZE_MAX);
  assert_int_equal(buf_put(copy, buf_peek(out), buf_size(out)), 0);
  for (; buf_size(copy) > 0; n++) {
    uint32_t id;
    assert_int_equal(link_next(copy, LINK_LAST, &f), 0);
    assert_int_equal(f.type, LINK_RECORD_DROP);
    assert_int_equal(link_numbers(&f, &id, 1), 0);
    assert_int_equal(id, first + n);
    link_done(copy, &f);
  }
  buf_deinit(copy);
  return n;
}

static void test_those_used_least_recently_are_dropped(void **state) {
  enum { MORE = 10 };
  static int fds[LINK_RECORDS_MAX + MORE];
  struct link_descriptor d;
  struct buf out, copy;
  buf_init(&out, SIZE_MAX);
  new_ends();
  for (unsigned i = 0; i < LINK_RECORDS_MAX + MORE; i++) {
    struct chunk_record *parents = new_record(&fds[i]);
    assert_int_equal(classify(fds[i], &d, &out), 1);
    assert_int_equal(d.kind, LINK_RECORD);
    assert_int_equal(d.id, i + 1);
    assert_int_equal(atomic_load(&parents->entered), UINT32_MAX); /* till it is told */
    share_unmap(parents, CHUNK_RECORD_SIZE);
    if (i > 0) { /* the second is used again and again: it stays */
      assert_int_equal(classify(fds[1], &d, &out), 1);
      assert_int_equal(d.id, 2);
    }
  }
  assert_int_equal(near_end->count, LINK_RECORDS_MAX);
  /* The first, and then those from the third on. */
  struct link_frame f;
  assert_int_equal(link_next(&out, LINK_LAST, &f), 0);
  uint32_t id;
  assert_int_equal(link_numbers(&f, &id, 1), 0);
  assert_int_equal(id, 1);
  link_done(&out, &f);
  assert_int_equal(count_drops(&out, &copy, 3), MORE - 1);
  assert_int_equal(classify(fds[0], &d, &out), 1); /* as one that never was there */
  assert_int_equal(d.id, LINK_RECORDS_MAX + MORE + 1);
  for (unsigned i = 0; i < LINK_RECORDS_MAX + MORE; i++)
    fd_close(&fds[i]);
  buf_deinit(&out);
}

/* A frame with these numbers, said to records_order. */
static int order(unsigned type, const uint32_t *numbers, unsigned n) {
  struct link_frame f;
  struct buf b;
  buf_init(&b, SIZE_MAX);
  assert_int_equal(link_put(&b, type, 0, numbers, n), 0);
  assert_int_equal(link_next(&b, LINK_LAST, &f), 0);
  int r = records_order(agent, &f);
  buf_deinit(&b);
  return r;
}

static void test_an_agent_takes_each_number_once(void **state) {
  struct link_descriptor d = {.kind = LINK_RECORD, .id = 7};
  const uint32_t unknown = 99, two[] = {7, 7};
  new_ends();
  int first = records_add(agent, &d, 3);
  assert_true(first >= 0);
  int again = records_add(agent, &d, 4); /* the same record for another worker */
  assert_true(again >= 0);
  d.id = 6;
  assert_int_equal(records_add(agent, &d, 5), -EPROTO); /* smaller, and unknown */
  void *map = mmap(NULL, CHUNK_RECORD_SIZE, PROT_READ, MAP_SHARED, first, 0);
  assert_true(map != MAP_FAILED);
  const struct chunk_record *memory = map;
  assert_int_equal(atomic_load(&memory->stop), 0);
  assert_int_equal(order(LINK_RECORD_STOP, &two[0], 1), 0);
  assert_true(atomic_load(&memory->stop) != 0);
  assert_int_equal(order(LINK_RECORD_STOP, &unknown, 1), 0);
  assert_int_equal(order(LINK_RECORD_DROP, &unknown, 1), 0);
  assert_int_equal(order(LINK_RECORD_DROP, two, 2), -EPROTO);
  assert_int_equal(agent->count, 1);
  assert_int_equal(order(LINK_RECORD_DROP, &two[0], 1), 0);
  assert_int_equal(agent->count, 0);
  assert_int_equal(order(LINK_RECORD_DROP, &two[0], 1), 0); /* is gone */
  d.id = 7;
  assert_int_equal(records_add(agent, &d, 3), -EPROTO); /* was one */
  munmap(map, CHUNK_RECORD_SIZE);
  fd_close(&first);
  fd_close(&again);
}

/* The next frame, for the near end. */
static int take(struct buf *b) {
  struct link_frame f;
  assert_int_equal(link_next(b, LINK_LAST, &f), 0);
  assert_int_equal(f.type, LINK_MEMORY);
  int r = records_take(near_end, &f);
  link_done(b, &f);
  return r;
}

static void test_what_a_worker_left_comes_to_the_parent(void **state) {
  enum { SIZE = RPC_CHUNK_BYTES }; /* as much as it takes */
  static char answer[SIZE];
  static unsigned char answers[RPC_CHUNK_BYTES];
  struct link_descriptor d;
  struct buf b;
  uint32_t bytes, finished, entered;
  int fd;
  buf_init(&b, SIZE_MAX);
  new_ends();
  struct chunk_record *parents = new_record(&fd);
  assert_int_equal(classify(fd, &d, &b), 1);
  int workers = records_add(agent, &d, 3);
  void *map =
      mmap(NULL, CHUNK_RECORD_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, workers, 0);
  assert_true(map != MAP_FAILED);
  struct chunk_record *record = map;
  memset(answer, 'a', SIZE);
  const uint32_t length = SIZE - 5; /* behind the kind and this */
  answer[0] = CHUNK_RESULT;
  for (int i = 0; i < 4; i++)
    answer[1 + i] = (char)(length >> 8 * i);
  chunk_record_enter(record, 1);
  assert_true(chunk_record_finish(record, 1, answer, SIZE));
  chunk_record_enter(record, 2);
  assert_int_equal(records_put(agent, 4, &b), 0); /* of another worker */
  assert_int_equal(buf_size(&b), 0);
  assert_int_equal(records_put(agent, 3, &b), 0);
  while (buf_size(&b) > 0)
    assert_int_equal(take(&b), 0);
  chunk_record_read(parents, 5, answers, &bytes, &finished, &entered);
  assert_int_equal(bytes, SIZE);
  assert_int_equal(finished, 1);
  assert_int_equal(entered, 2);
  assert_memory_equal(answers, answer, SIZE);
  assert_int_equal(records_put(agent, 3, &b), 0); /* once */
  assert_int_equal(buf_size(&b), 0);
  order(LINK_RECORD_DROP, &d.id, 1);
  munmap(map, CHUNK_RECORD_SIZE);
  share_unmap(parents, CHUNK_RECORD_SIZE);
  fd_close(&workers);
  fd_close(&fd);
  buf_deinit(&b);
}

static void test_nothing_beside_a_record_is_written(void **state) {
  static const struct {
    uint32_t id, offset;
    unsigned n;
    int result;
  } cases[] = {
      {1, 0, 4, 0},
      {1, CHUNK_RECORD_SIZE - 4, 4, 0},
      {1, CHUNK_RECORD_SIZE, 0, 0},
      {1, CHUNK_RECORD_SIZE - 3, 4, -EPROTO},
      {1, CHUNK_RECORD_SIZE, 4, -EPROTO},
      {1, UINT32_MAX, 4, -EPROTO},
      {1, UINT32_MAX - 3, 4, -EPROTO},
      {2, 0, 4, 0}, /* one that was dropped meanwhile */
      {2, UINT32_MAX, 4, -EPROTO},
  };
  struct link_descriptor d;
  struct buf b;
  int fd;
  buf_init(&b, SIZE_MAX);
  new_ends();
  struct chunk_record *parents = new_record(&fd);
  assert_int_equal(classify(fd, &d, &b), 1);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    unsigned char body[12];
    memcpy(body, &cases[i].id, 4);
    memcpy(body + 4, &cases[i].offset, 4);
    memset(body + 8, 0, 4);
    assert_int_equal(link_put_bytes(&b, LINK_MEMORY, body, 8 + cases[i].n), 0);
    assert_int_equal(take(&b), cases[i].result);
  }
  for (size_t n = 0; n < 8; n++) {
    assert_int_equal(link_put_bytes(&b, LINK_MEMORY, "\1\0\0\0\0\0\0\0", n), 0);
    assert_int_equal(take(&b), -EPROTO);
  }
  share_unmap(parents, CHUNK_RECORD_SIZE);
  fd_close(&fd);
  buf_deinit(&b);
}

/* Its number may be another's: whose end says nothing of that record. */
static void test_a_channel_that_is_gone_has_no_record(void **state) {
  struct link_descriptor d = {.kind = LINK_RECORD, .id = 1};
  struct buf out;
  buf_init(&out, SIZE_MAX);
  new_ends();
  int fd = records_add(agent, &d, 3);
  assert_true(fd >= 0);
  records_forget(agent, 5);
  records_forget(agent, 3);
  assert_int_equal(records_put(agent, 3, &out), 0);
  assert_int_equal(buf_size(&out), 0);
  assert_int_equal(order(LINK_RECORD_DROP, (uint32_t[]){1}, 1), 0);
  fd_close(&fd);
  buf_deinit(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      census_test(test_other_files_are_no_records),
      census_test(test_a_channel_that_is_gone_has_no_record),
      census_test(test_those_used_least_recently_are_dropped),
      census_test(test_an_agent_takes_each_number_once),
      census_test(test_what_a_worker_left_comes_to_the_parent),
      census_test(test_nothing_beside_a_record_is_written),
  };
  return cmocka_run_group_tests_name("records", tests, NULL, NULL);
}
