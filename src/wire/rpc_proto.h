/* The protocol of an rpc: numbers, layouts, limits. Both sides include this page;
 * doc/rpc-protocol.md is the same in words.
 *
 * It is spoken over the socket that `run` gives to the function "moonfork.rpc:serve",
 * whose last argument is the string described under PARAMETERS. Both directions carry the
 * frames of proto.h (wire/frame.h, inbox, outbox):
 *
 *     u32 length | u8 type | u8 nfds | u16 flags | u64 id | body (length bytes)
 *
 * all little-endian. FRAME_MORE: the body goes on in the next frame, which has the same
 * type (its id and nfds are 0); parts follow each other directly. A body is opaque here:
 * the serialiser makes and reads it. Only CALL, CHUNK, RESULT, ERROR, EVENT and FAILED
 * may come in parts.
 *
 * Handles travel with the first byte of a frame. A CALL or CHUNK may be preceded directly
 * by any number of GRANT frames, a RESULT or EVENT by HANDLES frames: a message's handles
 * are those of these frames and its own, in order.
 */
#ifndef WIRE_RPC_PROTO_H
#define WIRE_RPC_PROTO_H

/* Tables that are read as a page, and by test/check/protocol.lua. */
/* clang-format off */

#include "wire/proto.h"

#define RPC_MAGIC 0x3152464du /* "MFR1" */
#define RPC_VERSION 3
#define RPC_FUNCTION "moonfork.rpc:serve"

/* Parent to clone. */
enum rpc_request_type {
  RPC_CALL = 128,    /* id: its number, not 0, never used twice. body: the arguments */
  RPC_GRANT = 129,   /* nfds 1 to FRAME_FDS_MAX: handles of the next CALL or CHUNK. Nothing
                        else */
  RPC_END = 130,     /* no call follows. No id, no body, no handles */
  RPC_CHUNK = 131,   /* as CALL, of a synchronous function that is called once for each
                        item. body: a chunk (below). One handle, the chunk's record, or none */
  RPC_FORK = 132,    /* of a synchronous clone: fork, between two calls, a copy that serves
                        commands. id: the new process's. body: options of a FORK (proto.h), at
                        most 256 bytes. Handles: those of a FORK, then the owner's leash */
  RPC_REQUEST_LAST = RPC_FORK
};

/* Clone to parent. */
enum rpc_answer_type {
  RPC_HELLO = 160,   /* first. u32 magic, u16 version, u16 0, u64 the longest body of a
                        CALL that the clone takes */
  RPC_READY = 161,   /* init is over, the function found: calls are entered from now on */
  RPC_FAILED = 162,  /* it will never be ready: failure (proto.h). Nothing follows */
  RPC_RESULT = 163,  /* id: the call's. body: the results */
  RPC_ERROR = 164,   /* id: the call's. rpc failure (below) */
  RPC_EVENT = 165,   /* body: the event. No id */
  RPC_HANDLES = 166, /* nfds 1 to FRAME_FDS_MAX: handles of the next RESULT or EVENT */
  RPC_RETIRE = 167,  /* please no new calls; those that are under way are finished. Again
                        is harmless. No id, no body */
  RPC_USAGE = 168,   /* body: u64 bytes of private memory, u64 of shared */
  RPC_BYE = 169,     /* answer to END: every call is answered, all is written. Nothing
                        follows */
  RPC_FORKED = 170,      /* id: the FORK's. The copy is there. No body */
  RPC_FORK_FAILED = 171, /* id: the FORK's. failure (proto.h) */
  RPC_ANSWER_LAST = RPC_FORK_FAILED
};

/* rpc failure: u8 enum failure_code, u8 1: the function was not entered (else 0), u16 0,
 * u32 0, str message, str traceback (or none), perhaps str value, as in a failure of proto.h.
 * Codes: FAILURE_REMOTE (it raised), FAILURE_INVAL (arguments that can't be read, results
 * that can't be packed: the message has the path), FAILURE_LIMIT (a result longer than
 * the parent takes), FAILURE_NOMEM. */

/* CHUNKS (wire/chunk.h). Many items in one message: the function is called for each, in
 * order, as if it had come in a CALL of its own.
 *
 *   body of CHUNK:   u32 items, at least 1 | u32 microseconds, 0: any number |
 *                    items x str, the arguments
 *   its RESULT:      u32 answered, 0 only where the record says stop | u32 microseconds that
 *                    they took | answered x (u8 enum chunk_kind, str: results or rpc failure)
 *
 * The clone answers when all items are done, and earlier when the microseconds are over, when
 * its answer is long, when results have handles (the last item's are the message's), or when
 * the record says stop: the items that are not answered were not entered, and the parent
 * gives them to whom it likes. An ERROR is about all items, of which none was entered.
 *
 * The record is memory that both map: what was entered, and the results so far. So the death
 * of a clone costs exactly the item that it was at. */
enum chunk_kind { CHUNK_RESULT = 0, CHUNK_FAILURE = 1 };
enum {
  RPC_CHUNK_BYTES = 128 * 1024, /* of answers in a record; also where a chunk ends */
  RPC_CHUNK_MS = 20 /* after which a chunk with a time limit is answered at the latest,
                       the item under way excepted */
};

/* WHO MAY SEND WHAT WHEN. Anything else breaks the protocol and ends the connection.
 *
 *  clone's state   may send                                    goes on
 *  STARTING        HELLO                                       HELLO -> INIT
 *  INIT            HANDLES EVENT RETIRE USAGE                  READY -> SERVING
 *                                                              FAILED -> GONE
 *  SERVING         RESULT ERROR (of calls it has and has not   BYE (after END, no call
 *                  answered, FORKED FORK_FAILED of forks)      unanswered) -> GONE
 *                  HANDLES EVENT RETIRE USAGE
 *  GONE            nothing; closes the socket and exits        end of file
 *  between HANDLES and its RESULT or EVENT only further HANDLES; HANDLES and nfds > 0
 *  only where RPC_TAKES_HANDLES was set
 *
 *  parent's state  may send
 *  OPEN            GRANT CALL CHUNK (also before HELLO has come),    END -> ENDED
 *                  FORK where RPC_FORKS was set
 *  ENDED           nothing; it goes on reading                 closes at the end of file
 *  between GRANT and its CALL or CHUNK only further GRANT
 *
 * ORDER. Results, errors and events arrive in the order in which the clone made them. A
 * synchronous clone enters calls in the order of their frames, an asynchronous one too,
 * and answers in any order.
 *
 * ENDS. The parent's end of file without END: the parent is gone or has given up; the
 * clone leaves at once (asynchronous: within a second), whatever is outstanding. The
 * clone's end of file without BYE is its death: calls without an answer fail.
 *
 * STRICT (never with RPC_ASYNC): the clone enters a call only after it has handed the
 * answers of all former ones to the kernel. So when it dies, the first unanswered call
 * may have been entered and every later one was not. Without it answers may be written
 * together, before the clone would wait for more bytes or when RPC_BATCH_BYTES are
 * queued. In every mode READY is written before the first call is entered.
 *
 * FLOW. The parent always reads, also while it can't write; so a clone may simply block
 * in writing. A clone holds no more than a read buffer of calls that it has not entered
 * (in asynchronous mode it stops reading at RPC_ASYNC_CALLS_MAX calls entered and not
 * answered and while more than RPC_ASYNC_BYTES_MAX bytes of answers wait). */
enum { RPC_BATCH_BYTES = 64 * 1024 };
enum { RPC_ASYNC_CALLS_MAX = 4096, RPC_ASYNC_BYTES_MAX = 4 * 1024 * 1024 };

/* LIMITS. A message that is too long is refused by its sender: the parent's caller gets
 * LIMIT, the clone sends an ERROR with FAILURE_LIMIT (and raises for an event). One that
 * comes anyway ends the connection. Bodies that are not the user's (HELLO, FAILED, ERROR,
 * USAGE, FORK, FORK_FAILED) have the limit FRAME_BODY_MAX instead. Memory grows with what
 * arrives, never with what is claimed. */
#define RPC_MESSAGE_MAX (UINT64_C(256) << 20) /* body of a message unless changed */
enum { RPC_MESSAGE_FDS_MAX = 1024 };          /* handles of a message */

/* PARAMETERS. The rpc's own are one string, sent last, after all that the user sent: the
 * server takes its last argument off and gives the others to init, in order.
 *
 *   u32 magic | u16 version | u16 flags | u64 longest body that the parent takes |
 *   u32 milliseconds between two USAGE | str function | str init | str serialiser
 *
 * in Lua: string.unpack("<I4 I2 I2 I8 I4 s4 s4 s4", parameters). init may be empty: none.
 * Serialisers: "msgpack"; "string": values are byte strings, each as a str, handles
 * behind them; "raw": the body is the one and only string; else a module with encode
 * and decode. A clone that does not know the version raises at once. */
enum rpc_flags {
  RPC_ASYNC = 1,         /* f(done, ...), any order; else f(...) */
  RPC_TAKES_HANDLES = 2, /* the parent accepts handles in results and events */
  RPC_STRICT = 4,        /* see above; never with RPC_ASYNC */
  RPC_MEASURED = 8,      /* send USAGE: after an answer, not more often than given */
  RPC_STRICT_CLASSES = 16, /* objects of classes that are not registered are refused */
  RPC_FORKS = 32 /* FORK may come: the arguments of init are remembered; not with RPC_ASYNC */
};

/* clang-format on */

#endif
