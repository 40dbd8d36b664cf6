/* An rpc in the text of mf_dump. Runs in the parent. */
#ifndef PARENT_RPC_RPC_DUMP_H
#define PARENT_RPC_RPC_DUMP_H

#include <moonfork.h>
#include <stdio.h>

struct dump_entry;

/* Its line, after so many blanks. */
void rpc_dump(const mf_rpc *rpc, FILE *out, int indent);
void rpc_on_dump(const struct dump_entry *r, FILE *out); /* of an rpc that is no worker */

#endif
