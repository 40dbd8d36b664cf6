/* What a clone that is a thread tells of itself, on a socket of its own whose other end
 * only its parent has: in the place of the kernel, which tells of processes. It is closed
 * by the kernel when the thread ends, in whatever way, and so is that of all clones of a
 * process that crashes. Both ends are of one machine and one build.
 *
 *   LIFE_BORN   once, before its first code runs
 *   LIFE_ENDED  once, when its descriptors are closed; text_size bytes of last words
 *               follow
 */
#ifndef WIRE_LIFE_H
#define WIRE_LIFE_H

#include <signal.h>
#include <stdint.h>

enum life_kind { LIFE_BORN = 0x6c696601, LIFE_ENDED = 0x6c696602 };
enum { LIFE_TEXT_MAX = 8 * 1024 };
/* Sent to the thread with rt_tgsigqueueinfo(2), the low 31 bits of the clone's id as its
 * value: its end is wanted. Ignored by default, so that nothing is lost where it comes
 * late.
 */
#define THREAD_END_SIGNAL SIGURG
#define THREAD_END_VALUE(id) ((int)((id)&0x7fffffff))

struct life_record {
  uint32_t kind;
  int32_t number;              /* BORN: of the thread; ENDED: the exit code */
  uint64_t utime_us, stime_us; /* ENDED: of the thread (getrusage(2)) */
  uint32_t text_size;          /* ENDED: at most LIFE_TEXT_MAX */
  int32_t signal;              /* ENDED: SIGKILL where its parent wanted it; or 0 */
};

#endif
