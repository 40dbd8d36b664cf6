/* What a near end keeps up to date for the program that started it, in memory that both
 * share: a text about a program that hangs needs no answer of anybody's. Written by the
 * near end, but nsaid and what link_early.h says of the program. */
#ifndef WIRE_LINK_PAGE_H
#define WIRE_LINK_PAGE_H

#include "wire/link.h"
#include <stdatomic.h>
#include <stdint.h>

enum { LINK_PAGE_CHANNELS = 64 };

struct link_page_channel {
  volatile uint32_t id;
  volatile uint32_t unused;
  volatile uint64_t credit; /* bytes that may be sent to the far side */
  volatile uint64_t queued; /* bytes that the program has not read yet */
};

/* A FORK that the program has written by itself: its channel, the bytes of the command. */
struct link_early {
  uint32_t token, channel, size;
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
  /* The program's: FORKs that it began to write, and that are written. */
  _Atomic uint32_t nbegun, nearly;
  struct link_early early[LINK_FORKS_MAX];
  struct link_page_channel channels[LINK_PAGE_CHANNELS];
};

#endif
