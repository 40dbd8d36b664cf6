/* What far.c and far_fork.c know of a link. Runs in the parent. */
#ifndef PARENT_PROCESS_FAR_LINK_H
#define PARENT_PROCESS_FAR_LINK_H

#include "parent/loop/context.h"
#include "wire/link.h"
#include "wire/link_page.h"

struct far_fork;
struct far_input;
struct far_ops;
struct far_process;

enum { FAR_BUCKETS = 256 };

struct far_table {
  struct list link;
  uint32_t id, count;
  struct far_process *born[]; /* of each slot; or NULL */
};

struct far_link {
  struct context *context;
  const struct far_ops *ops;
  unsigned refs;
  int fd;
  int input; /* of the command, for the program's own FORKs; -1: not given */
  struct far_input *kept_input; /* copies of the program close it; or NULL */
  uint32_t nearly;    /* FORKs and requests of the program's own that were written */
  uint32_t nchannels; /* FORKs among them, which have channels of their own */
  uint64_t places;    /* a bit for each link_direct of the page: it is taken */
  uint32_t last_ticket;
  struct watch watch;
  struct task task, waking, reading;
  struct buf in, out;
  int has_root, root_is_news, is_barren; /* is_barren: the agent had no template */
  int is_listening;          /* an end is looked for that nobody is known to await */
  unsigned nknown, nawaited; /* processes, but the far template */
  unsigned nmeasured;
  int up, lost, told;     /* told: everybody knows that it is lost */
  int ended_by;           /* the signal for which it was ended before it was up; or 0 */
  struct link_page *page; /* NULL: there is none */
  char reason[1024], printed[LINK_TEXT_MAX + 1];
  size_t nprinted;
  struct list news;         /* processes whose end is to be told */
  struct list records;      /* struct far_record, in order of their visits */
  unsigned asked, visiting; /* what the next round of visits is for; this one */
  unsigned round;
  struct list processes[FAR_BUCKETS]; /* by serial */
  struct list tables[FAR_BUCKETS];    /* by id */
  uint32_t ntables, last_table;
  /* Forks whose socket is not made: those that wait for it, or for its end. */
  struct list forks;
  unsigned nforks,
      nasked; /* nasked: those whose answer has not come, forgotten ones too */
  uint64_t nheard, nsockets; /* bytes of the side; LINK_SOCKET among them */
  uint32_t last_token;
  uint64_t nforked;          /* bytes of all commands that went without a socket */
  struct fdset sockets;      /* that have come, before their frame is read */
  int dead;                  /* a socket whose other end is closed; -1: there is none */
  struct far_fork *freed;    /* whose number has been made free */
  struct far_fork *attended; /* whose answer is polled for, not by the loop; or NULL */
  unsigned nrow;             /* forks since an end was waited for */
  int is_row;                /* the agent was told that nobody waits */
};

/* What is to be told goes, as far as the near end takes it. */
void far_link_flush(struct far_link *far);
/* Whether what it tells wakes the program has perhaps changed. */
void far_link_watch(struct far_link *far);

/* The side is about to be read: so many bytes, at most. If a socket may come with them
 * there is a number for it; for one behind them there is perhaps none. */
size_t far_fork_make_room(struct far_link *far, size_t most);
/* It has been read. Takes fds. */
void far_fork_keep_sockets(struct far_link *far, struct fdset *fds, int truncated);
/* An end is waited for: the agent tells of ends at once. */
void far_fork_end_row(struct far_link *far);
/* LINK_SOCKET, LINK_ENDED. 0 or -EPROTO. */
int far_fork_take_socket(struct far_link *far, const struct link_frame *f);
int far_fork_take_end(struct far_link *far, const struct link_frame *f);
/* LINK_INPUT, likewise. */
int far_fork_take_input(struct far_link *far, const struct link_frame *f);
/* The program writes no more FORKs itself. */
void far_fork_close_input(struct far_link *far);
/* Outside of any event: processes hear of their sockets. */
void far_fork_tell(struct far_link *far);

#endif
