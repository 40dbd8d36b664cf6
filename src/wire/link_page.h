/* What a near end keeps up to date for the program that started it, in memory that both
 * share: a text about a program that hangs needs no answer of anybody's. Written by the
 * near end, but nsaid and what link_early.h says of the program. */
#ifndef WIRE_LINK_PAGE_H
#define WIRE_LINK_PAGE_H

#include "wire/link.h"
#include <stdatomic.h>
#include <stdint.h>

enum { LINK_PAGE_CHANNELS = 64, LINK_DIRECT_MAX = 64 };

struct link_page_channel {
  volatile uint32_t id;
  volatile uint32_t unused;
  volatile uint64_t credit; /* bytes that may be sent to the far side */
  volatile uint64_t queued; /* bytes that the program has not read yet */
};

/* What the program has written to the stream by itself: a FORK, its channel, the bytes of
 * the command; or, with token 0, so many bytes of a channel that has a link_direct. */
struct link_early {
  uint32_t token, channel, size;
};

/* A socket whose bytes the program may write to the stream by itself, where those that it
 * has written to the socket stand there. Of the near end; numbers of bytes are modulo
 * 2^32. */
struct link_direct {
  _Atomic uint32_t ticket; /* as in LINK_DIRECT: the others are valid; 0: they are not */
  _Atomic uint32_t channel;
  _Atomic uint32_t npassed; /* of the socket, which stand in the stream */
  _Atomic uint32_t limit;   /* how many may go over in all */
};

struct link_page {
  volatile uint64_t heard_ms;   /* when anything came from the agent (CLOCK_MONOTONIC) */
  volatile uint64_t written_ms; /* when the channels were written down: with each beat */
  volatile uint64_t backlog;    /* bytes that wait for the stream */
  volatile uint32_t beat_ms, window;
  volatile uint32_t nchannels, nlisted;
  volatile uint32_t takes_forks; /* LINK_FORK: it has descriptors enough for sockets */
  volatile uint32_t unused;
  volatile uint64_t nsaid; /* bytes that the program has put on its side, but START */
  /* Of channel 1: bytes that the near end has read from the program's socket; and how many
   * may go over in all, those of LINK_FORK included. */
  volatile uint64_t nroot, root_limit;
  volatile uint64_t ntold;    /* bytes for the program there, before they are written */
  volatile uint64_t nsockets; /* LINK_SOCKET among them, before they are counted there */
  /* Bytes of the side, as in nsaid, modulo 2^32: what follows from them stands in the stream. */
  _Atomic uint32_t npassed;
  _Atomic uint32_t is_claimed; /* the stream is the near end's alone */
  /* The program's: FORKs, or pieces of a channel, that it began to write, and that are
   * written. */
  _Atomic uint32_t nbegun, nearly;
  _Atomic uint32_t ntaken; /* of these the near end has seen */
  struct link_early early[LINK_FORKS_MAX];
  struct link_direct direct[LINK_DIRECT_MAX];
  struct link_page_channel channels[LINK_PAGE_CHANNELS];
};

#endif
